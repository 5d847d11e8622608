// Frames on sockets and TAP interfaces: calls and ioctls that need feature macros.
#ifndef CLINUX_NETWORK_H
#define CLINUX_NETWORK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/// Datagrams that one call receives at the most.
enum { CLINUX_FRAME_BATCH = 32 };

/// Sends the parts as one datagram or stretch of a stream without waiting. Returns bytes taken, or -1 with errno.
ssize_t clinux_send_parts(int socket, const struct iovec *parts, int count);

/// Receives at most `count` datagrams without waiting, each at a multiple of `stride` in `buffer`, and their lengths (the
/// real ones: beyond `stride` where a datagram was cut). Returns how many came, or -1 with errno.
int clinux_receive_frames(int socket, void *buffer, size_t stride, unsigned count, uint32_t *lengths);

/// Sends frames as datagrams without waiting: each stands behind its length in eight bytes and is padded to a multiple of
/// eight. Returns how many bytes of `frames` were sent, or -1 with errno.
ssize_t clinux_send_frames(int socket, const void *frames, size_t size);

/// A close-on-exec, non-blocking Unix datagram socket, or -1 with errno.
int clinux_unix_datagram_socket(void);
/// Gives the socket an address in the abstract name space that the host chooses. Returns 0, or -1 with errno.
int clinux_unix_autobind(int socket);
/// The socket's type (SOCK_STREAM...), or -1 with errno.
int clinux_socket_type(int fd);

// TAP interfaces (Documentation/networking/tuntap.rst). Frames carry the 10 bytes of struct virtio_net_hdr.

/// Attaches a new descriptor to an interface, which is made where it does not exist. Returns it, or -1 with errno.
int clinux_tap_open(const char *name, int several_queues);
/// The interface flags that a descriptor has, or -1 with errno where it is no TAP queue.
int clinux_tap_flags(int fd);
extern const int clinux_tap_flag_tap, clinux_tap_flag_header, clinux_tap_flag_no_information;
/// Sets the length of the header to 10 bytes in little-endian order.
int clinux_tap_use_header(int fd);
/// What the guest takes in received frames: the bits of NetworkOffloads, 0 checksum, 1 TSOv4, 2 TSOv6, 3 ECN, 4 USO.
int clinux_tap_set_offloads(int fd, unsigned offloads);
/// Lets the host spread frames over this queue or not.
int clinux_tap_set_active(int fd, int active);

#endif
