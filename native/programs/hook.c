/* hook.c - the container exists, its own program does not run yet. */
#include "hook.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_http.h"
#include "command_line.h"
#include "config_text.h"
#include "image.h"
#include "pin.h"
#include "say.h"
#include "scan.h"

#define STATE_MAX (1u << 20) /* bytes of a container's state */
#define TIMEOUT_MS 10000
#define RETRY_MS 100

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

/* The container's init process, which has made its mounts; 0 where the state does not say. */
static long pid_of(const char *state) {
  static const char key[] = "\"pid\"";
  for (const char *at = state; (at = strstr(at, key)); at++) {
    const char *colon = at + strlen(key) + strspn(at + strlen(key), " \t\r\n");
    if (*colon == ':') return strtol(colon + 1, NULL, 10);
  }
  return 0;
}

/* Whether the container of that state can load the shim: 1, 0 with the reason, or -1 with the cause said. */
static int loads_shim(const char *state, char *why, size_t size) {
  char bundle[PATH_MAX], root[PATH_MAX], seen[PATH_MAX + 64];
  json_text(state, "bundle", bundle, sizeof bundle);
  if (!*bundle) return say("the container's state names no bundle"), -1;
  char *config = bundle_config(bundle);
  if (!config) return say("cannot read %s/config.json", bundle), -1;
  bool found = config_root(bundle, config, root, sizeof root);
  /* As the container's own process sees it: with the mounts. */
  snprintf(seen, sizeof seen, "/proc/%ld/root%s%s", pid_of(state), *root == '/' ? "" : "/", root);
  int loads = found ? image_loads_shim(access(seen, F_OK) == 0 ? seen : root, config, why, size) : -1;
  free(config);
  return loads;
}

/* The state with what the agent cannot see, once more as JSON; the caller's to free. */
static char *marked(const char *state) {
  static const char mark[] = "{\"loads_shim\": false,";
  const char *rest = strchr(state, '{');
  char *body = malloc(strlen(state) + sizeof mark);
  if (body) sprintf(body, "%s%s", mark, rest ? rest + 1 : "}");
  return body;
}

/* An agent that is being replaced is waited for: a pod that is never restarted would else have failed for good. */
static int join(const char *socket, const char *tenant, const char *body, long long deadline_ms) {
  static struct answer answer;
  for (;;) {
    agent_post(socket, tenant, "attach", body, strlen(body), (int)(deadline_ms - now_ms()), &answer);
    if (answer.status || deadline_ms - now_ms() < RETRY_MS) break;
    poll(NULL, 0, RETRY_MS);
  }
  if (answer.status == 0)
    return say("the agent at %s gives no answer: %s (it keeps the driver's limits of this node)", socket,
               answer.problem);
  return answer.status / 100 == 2 ? 0 : say_refusal(&answer);
}

static int claim(const char *socket, const char *tenant) {
  long long deadline_ms = now_ms() + TIMEOUT_MS;
  char *state = malloc(STATE_MAX + 1), why[PATH_MAX];
  if (!state) return say("no memory for the container's state");
  ssize_t length = read_state(state, deadline_ms);
  if (length < 0) return 1;
  state[length] = 0;
  int loads = loads_shim(state, why, sizeof why);
  if (loads < 0) return 1;
  if (!socket && !loads)
    return say("the shim cannot be loaded in this image, and the GPU's driver has no limits that would hold it: %s"
               " (use an image with glibc, or a node with driver r615 or later)", why);
  if (!socket) return 0;
  char *body = loads ? state : marked(state);
  return body ? join(socket, tenant, body, deadline_ms) : say("no memory for the container's state");
}

int hook(int argc, char *const argv[]) {
  const char *name = argc > 1 ? argv[1] : "";
  if (argc == 2 && strcmp(name, "pin-etc") == 0) return pin();
  if (argc == 2 && strcmp(name, "claim") == 0) return claim(NULL, NULL);
  bool attaches = strcmp(name, "attach") == 0;
  if (argc != 4 || (!attaches && strcmp(name, "claim") != 0))
    return say("usage: cgpu-runtime hook attach SOCKET TENANT, hook claim [SOCKET TENANT], or hook pin-etc");
  if (!is_tenant_id(argv[3])) return say("%s is not the id of a tenant", argv[3]);
  return attaches ? attach(argv[2], argv[3]) : claim(argv[2], argv[3]);
}
