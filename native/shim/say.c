/* say.c - the shim's only voice: one line on stderr per cause. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "core.h"

#define LINE_BYTES 512 /* longer lines are cut; below PIPE_BUF, so that lines never mix */

void cg_say_once(bool *said, const char *format, ...) {
  if (__atomic_exchange_n(said, true, __ATOMIC_RELAXED)) return;
  int saved = errno;
  char line[LINE_BYTES] = "cgpu: ";
  const size_t prefix = sizeof "cgpu: " - 1, room = sizeof line - prefix - 1; /* 1 for the newline */
  va_list values;
  va_start(values, format);
  int wanted = vsnprintf(line + prefix, room, format, values);
  va_end(values);
  if (wanted >= 0) {
    size_t length = prefix + ((size_t)wanted < room ? (size_t)wanted : room - 1);
    line[length++] = '\n';
    /* write, not stdio: the user's buffers and locks are not ours. A closed stderr is the user's will. */
    while (write(STDERR_FILENO, line, length) < 0 && errno == EINTR) continue;
  }
  errno = saved;
}
