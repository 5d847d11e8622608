// io_uring(7) for reads and writes: the raw calls, and the memory that is shared with the kernel.
#ifndef CLINUX_RING_H
#define CLINUX_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct io_uring_sqe;
struct io_uring_cqe;

typedef struct {
  int fd;
  unsigned entries;
  unsigned *sq_head, *sq_tail, *sq_array;
  unsigned *cq_head, *cq_tail;
  unsigned sq_mask, cq_mask;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
  void *sq_memory, *cq_memory;
  size_t sq_size, cq_size, sqe_size;
} clinux_ring;

/// A ring that can do nothing but read and write open files. Returns 0, or -1 with errno.
int clinux_ring_open(clinux_ring *ring, unsigned entries);
void clinux_ring_close(clinux_ring *ring);
/// Puts a read or write into the submission queue; `vectors` stay until it has completed. 0 where the queue is full.
int clinux_ring_prepare(clinux_ring *ring, int file, int is_write, const struct iovec *vectors, unsigned count,
                        uint64_t offset, uint64_t token);
/// Hands the kernel what was prepared. Returns how many it took, or -1 with errno.
int clinux_ring_submit(clinux_ring *ring);
/// Waits for a completion. Returns 0, or -1 with errno.
int clinux_ring_wait(clinux_ring *ring);
/// Takes a completion: its token and its bytes or negative errno. 0 where there is none.
int clinux_ring_next(clinux_ring *ring, uint64_t *token, int32_t *result);

#endif
