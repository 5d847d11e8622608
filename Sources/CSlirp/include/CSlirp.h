// libslirp behind a few calls. It is loaded when it is first used: Debian has no archive of it to link, and whoever uses
// no user network shall not need it.
#ifndef CSLIRP_H
#define CSLIRP_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

/// A TCP/IP stack that stands for the host on the guest's network 10.0.2.0/24 and fec0::/64.
struct cslirp;

/// Takes a frame for the guest.
typedef void (*cslirp_send)(void *context, const void *frame, size_t size);

/// Whether the dynamic linker's cache has the library, so that `cslirp_load` may be expected to find it.
_Bool cslirp_is_installed(void);

/// Loads the library. Returns null, or why it cannot be loaded.
const char *cslirp_load(void);

/// Makes the stack, or null. `send` is called from within `cslirp_input` and `cslirp_wait`.
struct cslirp *cslirp_create(cslirp_send send, void *context);

/// Listens at an address of the host and forwards to one of the guest; both most significant octet first in the number,
/// `guest` 0 for the one that DHCP gives. Returns 0 or an errno.
int cslirp_forward(struct cslirp *stack, int is_udp, uint32_t host, uint16_t host_port, uint32_t guest,
                   uint16_t guest_port);

/// Takes a frame from the guest.
void cslirp_input(struct cslirp *stack, const void *frame, size_t size);

/// Waits until one of the caller's entries or a socket of the stack is ready or a timer is due, fills in the entries'
/// `revents` and lets the stack work. With `paused` the stack reads nothing from its sockets.
/// Returns 0, or an errno.
int cslirp_wait(struct cslirp *stack, struct pollfd *entries, unsigned count, _Bool paused);

#endif
