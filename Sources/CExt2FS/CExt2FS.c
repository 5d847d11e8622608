#include "CExt2FS.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <stdlib.h>
#include <string.h>

const long CEXT2FS_NOT_FOUND = EXT2_ET_FILE_NOT_FOUND;
const long CEXT2FS_NOT_DIRECTORY = EXT2_ET_NO_DIRECTORY;
const long CEXT2FS_UNSUPPORTED = EXT2_ET_UNSUPP_FEATURE;

struct cext2fs {
  cext2fs_read read;
  void *context;
  uint64_t size;
  ext2_filsys fs;
};

// The library hands its opener a name and nothing else.
static _Thread_local struct cext2fs *opening;

static errcode_t io_open(const char *name, int flags, io_channel *result);

static errcode_t io_close(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  free(channel->name);
  free(channel);
  return 0;
}

static errcode_t io_set_blksize(io_channel channel, int block_size) {
  if (block_size < EXT2_MIN_BLOCK_SIZE || block_size > EXT2_MAX_BLOCK_SIZE) return EXT2_ET_INVALID_ARGUMENT;
  channel->block_size = block_size;
  return 0;
}

// A negative count is one of bytes.
static errcode_t io_read(io_channel channel, unsigned long long block, int count, void *data) {
  struct cext2fs *fs = channel->private_data;
  uint64_t offset, bytes = count < 0 ? -(int64_t)count : (int64_t)count * channel->block_size;
  if (__builtin_mul_overflow(block, (uint64_t)channel->block_size, &offset)) return EXT2_ET_SHORT_READ;
  if (offset > fs->size || bytes > fs->size - offset) return EXT2_ET_SHORT_READ;
  return fs->read(fs->context, offset, data, bytes);
}

static errcode_t io_read_short(io_channel channel, unsigned long block, int count, void *data) {
  return io_read(channel, block, count, data);
}

static errcode_t io_write(io_channel channel, unsigned long long block, int count, const void *data) {
  (void)channel, (void)block, (void)count, (void)data;
  return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write_short(io_channel channel, unsigned long block, int count, const void *data) {
  return io_write(channel, block, count, data);
}

static errcode_t io_flush(io_channel channel) {
  (void)channel;
  return 0;
}

static struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "vmrun",
    .open = io_open,
    .close = io_close,
    .set_blksize = io_set_blksize,
    .read_blk = io_read_short,
    .write_blk = io_write_short,
    .flush = io_flush,
    .read_blk64 = io_read,
    .write_blk64 = io_write,
};

static errcode_t io_open(const char *name, int flags, io_channel *result) {
  (void)flags;
  io_channel channel = calloc(1, sizeof *channel);
  if (!channel) return EXT2_ET_NO_MEMORY;
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &manager;
  channel->name = strdup(name);
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = opening;
  *result = channel;
  return 0;
}

// Group descriptors are read as a whole: those of 16 TiB in blocks of 4 KiB are 8 MiB.
enum { DESCRIPTOR_LIMIT = 64 << 20 };

// What the library would allocate by, or divide by, before it has checked it.
static errcode_t check_superblock(struct cext2fs *fs) {
  struct ext2_super_block super;
  if (fs->size < SUPERBLOCK_OFFSET + sizeof super) return EXT2_ET_SHORT_READ;
  int error = fs->read(fs->context, SUPERBLOCK_OFFSET, &super, sizeof super);
  if (error) return error;
  if (super.s_magic != EXT2_SUPER_MAGIC) return EXT2_ET_BAD_MAGIC;
  if (super.s_log_block_size > EXT2_MAX_BLOCK_LOG_SIZE - EXT2_MIN_BLOCK_LOG_SIZE) return EXT2_ET_CORRUPT_SUPERBLOCK;
  if (super.s_blocks_per_group < 256 || super.s_inodes_per_group == 0) return EXT2_ET_CORRUPT_SUPERBLOCK;
  _Bool is_64bit = super.s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT;
  uint64_t blocks = super.s_blocks_count | (is_64bit ? (uint64_t)super.s_blocks_count_hi << 32 : 0);
  uint64_t groups = blocks / super.s_blocks_per_group + 1;
  uint64_t descriptor = is_64bit && super.s_desc_size > EXT2_MIN_DESC_SIZE ? super.s_desc_size : EXT2_MIN_DESC_SIZE;
  if (groups > DESCRIPTOR_LIMIT / descriptor) return EXT2_ET_CORRUPT_SUPERBLOCK;
  return 0;
}

long cext2fs_open(cext2fs_read read, void *context, uint64_t size, struct cext2fs **result) {
  struct cext2fs *fs = calloc(1, sizeof *fs);
  if (!fs) return ENOMEM;
  *fs = (struct cext2fs){.read = read, .context = context, .size = size};
  errcode_t error = check_superblock(fs);
  if (!error) {
    opening = fs;
    error = ext2fs_open2("image", 0, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &manager, &fs->fs);
    opening = 0;
  }
  if (error) {
    free(fs);
    return error;
  }
  *result = fs;
  return 0;
}

void cext2fs_close(struct cext2fs *fs) {
  ext2fs_free(fs->fs);
  free(fs);
}

const char *cext2fs_message(long code) {
  initialize_ext2_error_table();
  return error_message(code);
}

void cext2fs_get_info(struct cext2fs *fs, struct cext2fs_info *info) {
  struct ext2_super_block *super = fs->fs->super;
  memcpy(info->uuid, super->s_uuid, sizeof info->uuid);
  memcpy(info->label, super->s_volume_name, sizeof info->label);
  _Bool is_ext4 = ext2fs_has_feature_extents(super) || ext2fs_has_feature_64bit(super) ||
                  ext2fs_has_feature_flex_bg(super) || ext2fs_has_feature_metadata_csum(super);
  info->kind = is_ext4 ? "ext4" : ext2fs_has_feature_journal(super) ? "ext3" : "ext2";
  info->block_size = fs->fs->blocksize;
  info->needs_recovery = ext2fs_has_feature_journal_needs_recovery(super);
}

long cext2fs_inode(struct cext2fs *fs, uint32_t number, struct cext2fs_inode *result) {
  struct ext2_inode inode;
  errcode_t error = ext2fs_read_inode(fs->fs, number, &inode);
  if (error) return error;
  *result = (struct cext2fs_inode){
      .number = number,
      .mode = inode.i_mode,
      .size = EXT2_I_SIZE(&inode),
      .is_encrypted = !!(inode.i_flags & EXT4_ENCRYPT_FL),
      .is_inline = !!(inode.i_flags & EXT4_INLINE_DATA_FL),
  };
  memcpy(result->link, inode.i_block, sizeof result->link);
  return 0;
}

long cext2fs_child(struct cext2fs *fs, uint32_t directory, const char *name, size_t count, uint32_t *inode) {
  if (count > EXT2_NAME_LEN) return EXT2_ET_FILE_NOT_FOUND;
  return ext2fs_lookup(fs->fs, directory, name, count, 0, inode);
}

struct walk {
  cext2fs_run visit;
  void *context;
};

static int visit_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t logical, blk64_t reference, int offset, void *data) {
  (void)fs, (void)reference, (void)offset;
  struct walk *walk = data;
  if (logical < 0) return 0;
  return walk->visit(walk->context, logical, *block, 1) ? BLOCK_ABORT : 0;
}

long cext2fs_map(struct cext2fs *fs, uint32_t number, cext2fs_run visit, void *context) {
  struct ext2_inode inode;
  errcode_t error = ext2fs_read_inode(fs->fs, number, &inode);
  if (error) return error;
  if (!(inode.i_flags & EXT4_EXTENTS_FL)) {
    struct walk walk = {visit, context};
    return ext2fs_block_iterate3(fs->fs, number, BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY, 0, visit_block, &walk);
  }
  ext2_extent_handle_t handle;
  error = ext2fs_extent_open2(fs->fs, number, &inode, &handle);
  if (error) return error;
  struct ext2fs_extent extent;
  error = ext2fs_extent_get(handle, EXT2_EXTENT_ROOT, &extent);
  while (!error) {
    // Blocks that were reserved and not written since are zeroes.
    _Bool has_data = extent.e_flags & EXT2_EXTENT_FLAGS_LEAF && !(extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT);
    if (has_data && visit(context, extent.e_lblk, extent.e_pblk, extent.e_len)) break;
    error = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT, &extent);
  }
  ext2fs_extent_free(handle);
  return error == EXT2_ET_EXTENT_NO_NEXT || error == EXT2_ET_NO_CURRENT_NODE ? 0 : error;
}

long cext2fs_inline(struct cext2fs *fs, uint32_t number, void *buffer, size_t *count) {
  size_t size;
  errcode_t error = ext2fs_inline_data_size(fs->fs, number, &size);
  if (error) return error;
  if (size > *count) return EXT2_ET_FILE_TOO_BIG;
  *count = size;
  return ext2fs_inline_data_get(fs->fs, number, 0, buffer, count);
}

struct listing {
  cext2fs_name visit;
  void *context;
};

static int visit_name(ext2_ino_t directory, int entry, struct ext2_dir_entry *name, int offset, int block_size,
                      char *block, void *data) {
  (void)directory, (void)entry, (void)offset, (void)block_size, (void)block;
  struct listing *listing = data;
  return listing->visit(listing->context, name->name, ext2fs_dirent_name_len(name)) ? DIRENT_ABORT : 0;
}

long cext2fs_list(struct cext2fs *fs, uint32_t number, cext2fs_name visit, void *context) {
  struct listing listing = {visit, context};
  return ext2fs_dir_iterate2(fs->fs, number, 0, 0, visit_name, &listing);
}
