// Pseudoterminals and Unix stream sockets: calls that need feature macros or variadic arguments.
#ifndef CLINUX_CHARACTER_H
#define CLINUX_CHARACTER_H

#include <stddef.h>

/// Opens an unlocked pseudoterminal master (close-on-exec, non-blocking) and writes its slave's path to `path`.
/// Returns the descriptor, or -1 with errno.
int clinux_open_pseudoterminal(char *path, size_t size);
/// Takes a waiting connection as a non-blocking, close-on-exec descriptor, or returns -1 with errno.
int clinux_accept(int listener);
/// A close-on-exec Unix stream socket, non-blocking on request, or -1 with errno.
int clinux_unix_socket(int nonblocking);
/// `bind` (nonzero) or `connect` to the path. Returns 0, or -1 with errno.
int clinux_unix_address(int fd, const char *path, int bind_it);
/// The longest path that a Unix socket address holds.
size_t clinux_unix_path_limit(void);
/// Columns and rows of a terminal. Returns 0, or -1 with errno.
int clinux_window_size(int fd, unsigned short *columns, unsigned short *rows);
/// Keeps SIGPIPE from this thread, whose writes then fail with EPIPE.
void clinux_block_sigpipe(void);
/// 1 where the path is a socket, 0 where it is something else, -1 with errno.
int clinux_is_socket(const char *path);

#endif
