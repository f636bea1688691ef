/* say.c - one line on stderr, written at once. */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int say(const char *format, ...) {
  char line[8192] = "cgpu: ";
  size_t prefix = strlen(line);
  va_list arguments;
  va_start(arguments, format);
  int wanted = vsnprintf(line + prefix, sizeof line - prefix - 1, format, arguments);
  va_end(arguments);
  size_t length = prefix + (wanted < 0 ? 0 : (size_t)wanted);
  if (length > sizeof line - 2) length = sizeof line - 2;
  line[length++] = '\n';
  if (write(STDERR_FILENO, line, length) < 0) return 1; /* nobody listens */
  return 1;
}
