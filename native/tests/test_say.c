// Lines on stderr: prefixed, once per cause, never mixed, never longer than a pipe takes at once.
// sources: shim/say.c
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../shim/core.h"

static int failures;
static int to_stderr; /* reading end of what stands in for stderr */

#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) {                                                 \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);  \
      failures++;                                                       \
    }                                                                   \
  } while (0)

static size_t heard(char *text, size_t room) {
  ssize_t length = read(to_stderr, text, room - 1);
  text[length > 0 ? length : 0] = '\0';
  return length > 0 ? (size_t)length : 0;
}

static void name_a_cause(int number) { cg_say("cause %d", number); }

static void *shout(void *unused) {
  (void)unused;
  name_a_cause(2);
  return NULL;
}

static void once_per_call_site(void) {
  char text[4096];
  errno = 77;
  name_a_cause(1);
  CHECK(errno == 77);
  name_a_cause(2);
  pthread_t thread[4];
  for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, shout, NULL);
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  cg_say("another cause");
  heard(text, sizeof text);
  CHECK(strcmp(text, "cgpu: cause 1\ncgpu: another cause\n") == 0);
}

static void long_lines_are_cut(void) {
  char text[4096], lines[1024];
  memset(lines, 'x', sizeof lines);
  lines[sizeof lines - 1] = '\0';
  cg_say("%s", lines);
  size_t length = heard(text, sizeof text);
  CHECK(length <= 512);
  CHECK(length > 400);
  CHECK(text[length - 1] == '\n');
  CHECK(memchr(text, '\n', length) == text + length - 1);
  CHECK(strncmp(text, "cgpu: xxx", 9) == 0);
}

static void a_closed_stderr_is_the_users_will(void) {
  close(STDERR_FILENO);
  errno = 77;
  cg_say("nobody hears this");
  CHECK(errno == 77);
}

int main(void) {
  int ends[2];
  if (pipe(ends) || dup2(ends[1], STDERR_FILENO) < 0) return 2;
  close(ends[1]);
  to_stderr = ends[0];
  once_per_call_site();
  long_lines_are_cut();
  a_closed_stderr_is_the_users_will();
  return failures != 0;
}
