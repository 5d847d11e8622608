// Linked for CExt2FS, which is all that calls it.
