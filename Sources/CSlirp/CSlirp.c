#define _GNU_SOURCE
#include "CSlirp.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LIBRARY_NAME "libslirp.so.0"

static struct {
  __typeof__(&slirp_new) create;
  __typeof__(&slirp_add_hostfwd) add_forward;
  __typeof__(&slirp_input) input;
  __typeof__(&slirp_pollfds_fill) fill;
  __typeof__(&slirp_pollfds_poll) poll;
} library;

struct timer {
  SlirpTimerCb call;
  void *argument;
  /// Milliseconds of the stack's clock; -1: not set.
  int64_t due;
  struct timer *next;
};

struct cslirp {
  Slirp *slirp;
  SlirpCb callbacks;
  cslirp_send send;
  void *context;
  struct timer *timers;
  /// The caller's entries, then the stack's sockets.
  struct pollfd *entries;
  unsigned used, capacity;
  _Bool paused;
};

// GLib's messages: what a guest does must not fill the user's terminal.
static void drop_message(const char *domain, int level, const char *text, void *data) {
  (void)domain, (void)level, (void)text, (void)data;
}

_Bool cslirp_is_installed(void) {
  // ldconfig(8) keeps the names of all libraries there; where they lie does not matter here.
  int file = open("/etc/ld.so.cache", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  struct stat status;
  void *cache = fstat(file, &status) < 0 ? MAP_FAILED : mmap(0, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (cache == MAP_FAILED) return 0;
  _Bool found = memmem(cache, (size_t)status.st_size, LIBRARY_NAME, sizeof LIBRARY_NAME) != 0;
  munmap(cache, (size_t)status.st_size);
  return found;
}

const char *cslirp_load(void) {
  if (library.create) return 0;
  void *handle = dlopen(LIBRARY_NAME, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return dlerror();
  library.add_forward = (__typeof__(library.add_forward))dlsym(handle, "slirp_add_hostfwd");
  library.input = (__typeof__(library.input))dlsym(handle, "slirp_input");
  library.fill = (__typeof__(library.fill))dlsym(handle, "slirp_pollfds_fill");
  library.poll = (__typeof__(library.poll))dlsym(handle, "slirp_pollfds_poll");
  __typeof__(library.create) create = (__typeof__(library.create))dlsym(handle, "slirp_new");
  if (!create || !library.add_forward || !library.input || !library.fill || !library.poll) return dlerror();
  library.create = create;
  void *(*set_log_handler)(void *, void *) = (void *(*)(void *, void *))dlsym(handle, "g_log_set_default_handler");
  if (set_log_handler) set_log_handler((void *)drop_message, 0);
  return 0;
}

static ssize_t on_send(const void *frame, size_t size, void *opaque) {
  struct cslirp *stack = opaque;
  stack->send(stack->context, frame, size);
  return (ssize_t)size;
}

static void on_guest_error(const char *text, void *opaque) { (void)text, (void)opaque; }

static int64_t on_clock(void *opaque) {
  (void)opaque;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void *on_timer_new(SlirpTimerCb call, void *argument, void *opaque) {
  struct cslirp *stack = opaque;
  struct timer *timer = malloc(sizeof *timer);
  if (!timer) abort();
  *timer = (struct timer){.call = call, .argument = argument, .due = -1, .next = stack->timers};
  stack->timers = timer;
  return timer;
}

static void on_timer_free(void *which, void *opaque) {
  struct cslirp *stack = opaque;
  for (struct timer **link = &stack->timers; *link; link = &(*link)->next) {
    if (*link != which) continue;
    *link = (*link)->next;
    free(which);
    return;
  }
}

static void on_timer_set(void *timer, int64_t due, void *opaque) {
  (void)opaque;
  ((struct timer *)timer)->due = due;
}

static void on_descriptor(int fd, void *opaque) { (void)fd, (void)opaque; }
static void on_notify(void *opaque) { (void)opaque; }

struct cslirp *cslirp_create(cslirp_send send, void *context) {
  struct cslirp *stack = calloc(1, sizeof *stack);
  if (!stack) return 0;
  stack->send = send;
  stack->context = context;
  stack->callbacks = (SlirpCb){
      .send_packet = on_send,
      .guest_error = on_guest_error,
      .clock_get_ns = on_clock,
      .timer_new = on_timer_new,
      .timer_free = on_timer_free,
      .timer_mod = on_timer_set,
      .register_poll_fd = on_descriptor,
      .unregister_poll_fd = on_descriptor,
      .notify = on_notify,
  };
  // Version 1 is what every libslirp.so.0 has. No TFTP: there is no path for it.
  SlirpConfig config = {
      .version = 1,
      .in_enabled = 1,
      .vnetwork.s_addr = htonl(0x0A000200),
      .vnetmask.s_addr = htonl(0xFFFFFF00),
      .vhost.s_addr = htonl(0x0A000202),
      .vdhcp_start.s_addr = htonl(0x0A00020F),
      .vnameserver.s_addr = htonl(0x0A000203),
      .in6_enabled = 1,
      .vprefix_len = 64,
  };
  inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
  inet_pton(AF_INET6, "fec0::2", &config.vhost6);
  inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
  stack->slirp = library.create(&config, &stack->callbacks, stack);
  if (stack->slirp) return stack;
  free(stack);
  return 0;
}

int cslirp_forward(struct cslirp *stack, int is_udp, uint32_t host, uint16_t host_port, uint32_t guest,
                   uint16_t guest_port) {
  struct in_addr host_address = {htonl(host)}, guest_address = {htonl(guest)};
  errno = 0;
  if (library.add_forward(stack->slirp, is_udp, host_address, host_port, guest_address, guest_port) == 0) return 0;
  return errno ? errno : EADDRINUSE;
}

void cslirp_input(struct cslirp *stack, const void *frame, size_t size) { library.input(stack->slirp, frame, (int)size); }

static int add_entry(int fd, int wanted, void *opaque) {
  struct cslirp *stack = opaque;
  if (stack->used == stack->capacity) {
    unsigned capacity = stack->capacity ? stack->capacity * 2 : 64;
    struct pollfd *entries = realloc(stack->entries, capacity * sizeof *entries);
    if (!entries) abort();
    stack->entries = entries;
    stack->capacity = capacity;
  }
  short events = 0;
  if (wanted & SLIRP_POLL_IN && !stack->paused) events |= POLLIN;
  if (wanted & SLIRP_POLL_OUT) events |= POLLOUT;
  if (wanted & SLIRP_POLL_PRI && !stack->paused) events |= POLLPRI;
  // A hang-up is reported without being asked for, and could not be acted on while paused.
  stack->entries[stack->used] = (struct pollfd){.fd = events ? fd : -1, .events = events};
  return (int)stack->used++;
}

static int ready_events(int index, void *opaque) {
  struct cslirp *stack = opaque;
  if (index < 0 || (unsigned)index >= stack->used) return 0;
  short ready = stack->entries[index].revents;
  int events = 0;
  if (ready & POLLIN) events |= SLIRP_POLL_IN;
  if (ready & POLLOUT) events |= SLIRP_POLL_OUT;
  if (ready & POLLPRI) events |= SLIRP_POLL_PRI;
  if (ready & POLLERR) events |= SLIRP_POLL_ERR;
  if (ready & POLLHUP) events |= SLIRP_POLL_HUP;
  return events;
}

static int64_t milliseconds(void) { return on_clock(0) / 1000000; }

static void run_timers(struct cslirp *stack) {
  int64_t now = milliseconds();
  for (struct timer *timer = stack->timers, *next; timer; timer = next) {
    next = timer->next;
    if (timer->due < 0 || timer->due > now) continue;
    timer->due = -1;
    timer->call(timer->argument);
  }
}

int cslirp_wait(struct cslirp *stack, struct pollfd *entries, unsigned count, _Bool paused) {
  stack->used = 0;
  stack->paused = paused;
  for (unsigned i = 0; i < count; i++) add_entry(-1, 0, stack);
  memcpy(stack->entries, entries, count * sizeof *entries);
  uint32_t timeout = UINT32_MAX;
  library.fill(stack->slirp, &timeout, add_entry, stack);
  int64_t now = milliseconds();
  for (struct timer *timer = stack->timers; timer; timer = timer->next)
    if (timer->due >= 0 && timer->due - now < timeout) timeout = timer->due > now ? (uint32_t)(timer->due - now) : 0;
  int result = poll(stack->entries, stack->used, timeout > INT32_MAX ? -1 : (int)timeout);
  int error = result < 0 ? errno : 0;
  memcpy(entries, stack->entries, count * sizeof *entries);
  library.poll(stack->slirp, result < 0, ready_events, stack);
  run_timers(stack);
  return error == EINTR ? 0 : error;
}
