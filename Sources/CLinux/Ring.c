#define _GNU_SOURCE
#include "CLinuxRing.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Which requests the ring takes: a system call filter does not see them.
static int restrict_ring(int fd) {
  struct io_uring_restriction rules[] = {
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
  };
  if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, rules, sizeof rules / sizeof *rules) < 0)
    return -1;
  return (int)syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, 0, 0);
}

static void *map(int fd, size_t size, off_t offset) {
  void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  return memory == MAP_FAILED ? 0 : memory;
}

int clinux_ring_open(clinux_ring *ring, unsigned entries) {
  struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED};
  memset(ring, 0, sizeof *ring);
  ring->fd = (int)syscall(SYS_io_uring_setup, entries, &params);
  if (ring->fd < 0) return -1;
  ring->entries = params.sq_entries;
  ring->sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  ring->cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  ring->sqe_size = params.sq_entries * sizeof(struct io_uring_sqe);
  ring->sq_memory = map(ring->fd, ring->sq_size, IORING_OFF_SQ_RING);
  ring->cq_memory = map(ring->fd, ring->cq_size, IORING_OFF_CQ_RING);
  ring->sqes = map(ring->fd, ring->sqe_size, IORING_OFF_SQES);
  if (!ring->sq_memory || !ring->cq_memory || !ring->sqes || restrict_ring(ring->fd) < 0) {
    int error = errno;
    clinux_ring_close(ring);
    errno = error;
    return -1;
  }
  char *sq = ring->sq_memory, *cq = ring->cq_memory;
  ring->sq_head = (unsigned *)(sq + params.sq_off.head);
  ring->sq_tail = (unsigned *)(sq + params.sq_off.tail);
  ring->sq_array = (unsigned *)(sq + params.sq_off.array);
  ring->sq_mask = *(unsigned *)(sq + params.sq_off.ring_mask);
  ring->cq_head = (unsigned *)(cq + params.cq_off.head);
  ring->cq_tail = (unsigned *)(cq + params.cq_off.tail);
  ring->cq_mask = *(unsigned *)(cq + params.cq_off.ring_mask);
  ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
  return 0;
}

void clinux_ring_close(clinux_ring *ring) {
  if (ring->sq_memory) munmap(ring->sq_memory, ring->sq_size);
  if (ring->cq_memory) munmap(ring->cq_memory, ring->cq_size);
  if (ring->sqes) munmap(ring->sqes, ring->sqe_size);
  close(ring->fd);
}

int clinux_ring_prepare(clinux_ring *ring, int file, int is_write, const struct iovec *vectors, unsigned count,
                        uint64_t offset, uint64_t token) {
  unsigned tail = *ring->sq_tail;
  if (tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE) >= ring->entries) return 0;
  unsigned index = tail & ring->sq_mask;
  ring->sqes[index] = (struct io_uring_sqe){.opcode = is_write ? IORING_OP_WRITEV : IORING_OP_READV,
                                            .fd = file,
                                            .off = offset,
                                            .addr = (uintptr_t)vectors,
                                            .len = count,
                                            .user_data = token};
  ring->sq_array[index] = index;
  __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
  return 1;
}

int clinux_ring_submit(clinux_ring *ring) {
  unsigned count = *ring->sq_tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);
  return count == 0 ? 0 : (int)syscall(SYS_io_uring_enter, ring->fd, count, 0, 0, 0, 0);
}

int clinux_ring_wait(clinux_ring *ring) {
  long result = syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, 0, 0);
  return result < 0 ? -1 : 0;
}

int clinux_ring_next(clinux_ring *ring, uint64_t *token, int32_t *result) {
  unsigned head = *ring->cq_head;
  if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) return 0;
  struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
  *token = cqe->user_data;
  *result = cqe->res;
  __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
  return 1;
}
