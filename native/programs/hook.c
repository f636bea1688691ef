/* hook.c - the container exists, its own program does not run yet. */
#include "hook.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_http.h"
#include "command_line.h"
#include "pin.h"
#include "say.h"

#define STATE_MAX (1u << 20) /* bytes of a container's state */
#define TIMEOUT_MS 10000

/* Reads the state from stdin; its length, or -1 with the cause said. */
static ssize_t read_state(char *state, long long deadline_ms) {
  size_t length = 0;
  while (length <= STATE_MAX) {
    if (!wait_for(STDIN_FILENO, POLLIN, deadline_ms))
      return say("the runtime does not give the container's state"), -1;
    ssize_t got = read(STDIN_FILENO, state + length, STATE_MAX + 1 - length);
    if (got == 0) return (ssize_t)length;
    if (got > 0) length += (size_t)got;
    else if (errno != EINTR && errno != EAGAIN)
      return say("cannot read the container's state: %s", strerror(errno)), -1;
  }
  return say("the container's state is longer than %u bytes", STATE_MAX), -1;
}

/* What the agent says against it, on one line. */
static int say_refusal(const struct answer *answer) {
  char message[4096], remedy[2048];
  json_text(answer->body, "message", message, sizeof message);
  json_text(answer->body, "remedy", remedy, sizeof remedy);
  if (!*message) return say("the agent answers %d: %.4000s", answer->status, answer->body);
  return *remedy ? say("%s (%s)", message, remedy) : say("%s", message);
}

static int attach(const char *socket, const char *tenant) {
  static struct answer answer;
  char *state = malloc(STATE_MAX + 1);
  if (!state) return say("no memory for the container's state");
  ssize_t length = read_state(state, now_ms() + TIMEOUT_MS);
  if (length >= 0) agent_post(socket, tenant, "attach", state, (size_t)length, TIMEOUT_MS, &answer);
  free(state);
  if (length < 0) return 1;
  if (answer.status == 0)
    return say("the agent at %s gives no answer: %s (is it running? cgpu agent)", socket, answer.problem);
  return answer.status / 100 == 2 ? 0 : say_refusal(&answer);
}

static int pin(void) {
  char *state = malloc(STATE_MAX + 1), bundle[PATH_MAX];
  if (!state) return say("no memory for the container's state");
  ssize_t length = read_state(state, now_ms() + TIMEOUT_MS);
  if (length >= 0) {
    state[length] = 0;
    json_text(state, "bundle", bundle, sizeof bundle);
  }
  free(state);
  if (length < 0) return 1;
  return *bundle ? pin_etc(bundle) : say("the container's state names no bundle");
}

int hook(int argc, char *const argv[]) {
  if (argc == 2 && strcmp(argv[1], "pin-etc") == 0) return pin();
  if (argc != 4 || strcmp(argv[1], "attach") != 0)
    return say("usage: cgpu-runtime hook attach SOCKET TENANT, or cgpu-runtime hook pin-etc");
  if (!is_tenant_id(argv[3])) return say("%s is not the id of a tenant", argv[3]);
  return attach(argv[2], argv[3]);
}
