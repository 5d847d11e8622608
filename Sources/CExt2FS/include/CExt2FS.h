// libext2fs behind a few calls, read-only, over a function that reads bytes. The file system is hostile: sizes that decide
// about memory are checked here before the library sees them; what is read, and how often, the reader bounds.
#ifndef CEXT2FS_H
#define CEXT2FS_H

#include <stddef.h>
#include <stdint.h>

struct cext2fs;

/// Fills `buffer` with `count` bytes from `offset` on. Returns 0 or an errno.
typedef int (*cext2fs_read)(void *context, uint64_t offset, void *buffer, size_t count);

/// Codes of libext2fs that a caller treats in its own way.
extern const long CEXT2FS_NOT_FOUND, CEXT2FS_NOT_DIRECTORY, CEXT2FS_UNSUPPORTED;

/// Opens the file system of `size` bytes. Returns 0, an errno, or a code of libext2fs (com_err).
long cext2fs_open(cext2fs_read read, void *context, uint64_t size, struct cext2fs **result);
void cext2fs_close(struct cext2fs *fs);

/// The code's meaning in English; the string lives until the next call.
const char *cext2fs_message(long code);

struct cext2fs_info {
  uint8_t uuid[16];
  /// Not always ended by a zero.
  char label[16];
  /// `ext2`, `ext3` or `ext4`, by what it uses.
  const char *kind;
  uint32_t block_size;
  /// The journal holds changes that the file system itself does not have yet.
  _Bool needs_recovery;
};
void cext2fs_get_info(struct cext2fs *fs, struct cext2fs_info *info);

enum { CEXT2FS_ROOT = 2, CEXT2FS_SHORT_LINK = 60 };

struct cext2fs_inode {
  uint32_t number;
  uint16_t mode;
  uint64_t size;
  _Bool is_encrypted, is_inline;
  /// The target of a symbolic link of less than 60 bytes.
  char link[CEXT2FS_SHORT_LINK];
};

long cext2fs_inode(struct cext2fs *fs, uint32_t number, struct cext2fs_inode *inode);

/// The inode of a name in a directory. The library's own walk along a path believes the length of a symbolic link.
long cext2fs_child(struct cext2fs *fs, uint32_t directory, const char *name, size_t count, uint32_t *inode);

/// Blocks of a file that have data, in ascending order of `logical`. Nonzero ends the walk.
typedef int (*cext2fs_run)(void *context, uint64_t logical, uint64_t physical, uint64_t count);
long cext2fs_map(struct cext2fs *fs, uint32_t inode, cext2fs_run visit, void *context);

/// The content of a file that is kept in its inode. `count` is the buffer's size and becomes the content's.
long cext2fs_inline(struct cext2fs *fs, uint32_t inode, void *buffer, size_t *count);

/// Names of a directory. Nonzero ends the walk.
typedef int (*cext2fs_name)(void *context, const char *name, size_t count);
long cext2fs_list(struct cext2fs *fs, uint32_t inode, cext2fs_name visit, void *context);

#endif
