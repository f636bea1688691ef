/* hook.c - the container exists, its own program does not run yet. */
#include "hook.h"

#include <ctype.h>
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

/* The answer's code as users see it: " [CGPU-NO-SUCH-GPU]" of no_such_gpu; "" where it has none. */
static void code_of(const struct answer *answer, char *seen, size_t size) {
  char code[64];
  json_text(answer->body, "code", code, sizeof code);
  for (char *at = code; *at; at++) *at = *at == '_' ? '-' : (char)toupper((unsigned char)*at);
  snprintf(seen, size, *code ? " [CGPU-%s]" : "%s", code);
}

/* What the agent says against it, on one line. */
static int say_refusal(const struct answer *answer) {
  char message[4096], remedy[2048], code[80];
  json_text(answer->body, "message", message, sizeof message);
  json_text(answer->body, "remedy", remedy, sizeof remedy);
  code_of(answer, code, sizeof code);
  if (!*message) return say("the agent answers %d: %.4000s", answer->status, answer->body);
  return *remedy ? say("%s (%s)%s", message, remedy, code) : say("%s%s", message, code);
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
static char *marked(const char *state, const char *why) {
  static const char form[] = "{\"loads_shim\": false, \"shim_problem\": \"%s\",%s";
  static char problem[2 * PATH_MAX];
  json_encode(why, problem, sizeof problem);
  const char *rest = strchr(state, '{');
  char *body = malloc(strlen(state) + strlen(problem) + sizeof form);
  if (body) sprintf(body, form, problem, rest ? rest + 1 : "}");
  return body;
}

/* Reads the state of a container and looks at its image: as `loads_shim`; the state is the caller's to free. */
static int look(char **state, char *why, size_t size, long long deadline_ms) {
  *state = malloc(STATE_MAX + 1);
  if (!*state) return say("no memory for the container's state"), -1;
  ssize_t length = read_state(*state, deadline_ms);
  if (length < 0) return -1;
  (*state)[length] = 0;
  return loads_shim(*state, why, size);
}

/* Gives the agent the container. One that is being replaced is waited for where that is asked: a pod that is never
 * restarted would else have failed for good. */
static int join(const char *socket, const char *tenant, const char *body, long long deadline_ms, bool waits) {
  static struct answer answer;
  for (;;) {
    agent_post(socket, tenant, "attach", body, strlen(body), (int)(deadline_ms - now_ms()), &answer);
    if (answer.status || !waits || deadline_ms - now_ms() < RETRY_MS) break;
    poll(NULL, 0, RETRY_MS);
  }
  if (answer.status) return answer.status / 100 == 2 ? 0 : say_refusal(&answer);
  return say("the agent at %s gives no answer: %s (%s)", socket, answer.problem,
             waits ? "it keeps the driver's limits of this node" : "is it running? cgpu agent");
}

static int attach(const char *socket, const char *tenant, bool waits) {
  long long deadline_ms = now_ms() + TIMEOUT_MS;
  char *state, *body = NULL, why[PATH_MAX];
  int loads = look(&state, why, sizeof why, deadline_ms), status = 1;
  if (loads == 0 && !(body = marked(state, why))) say("no memory for the container's state");
  if (loads == 1 || body) status = join(socket, tenant, body ? body : state, deadline_ms, waits);
  free(body);
  free(state);
  return status;
}

/* Without an agent: nothing of the driver's can hold the container. */
static int refuse_without_shim(const char *cause, const char *remedy) {
  char *state, why[PATH_MAX];
  int loads = look(&state, why, sizeof why, now_ms() + TIMEOUT_MS);
  free(state);
  if (loads) return loads < 0;
  return say("the shim cannot be loaded in this image, and %s: %s (use an image with glibc, or %s) [CGPU-LAYER]",
             cause, why, remedy);
}

int hook(int argc, char *const argv[]) {
  const char *name = argc > 1 ? argv[1] : "";
  if (argc == 2 && strcmp(name, "pin-etc") == 0) return pin();
  if (argc == 2 && strcmp(name, "claim") == 0)
    return refuse_without_shim("the GPU's driver has no limits that would hold it",
                               "a node with driver r615 or later");
  if (argc == 2 && strcmp(name, "device") == 0)
    return refuse_without_shim("the driver has no limits that many containers share",
                               "cgpu-runtime on driver r615 or later");
  bool claims = strcmp(name, "claim") == 0;
  if (argc != 4 || (!claims && strcmp(name, "attach") != 0))
    return say("usage: cgpu-runtime hook attach SOCKET TENANT, hook claim [SOCKET TENANT], hook device, or hook"
               " pin-etc");
  if (!is_tenant_id(argv[3])) return say("%s is not the id of a tenant", argv[3]);
  return attach(argv[2], argv[3], claims);
}
