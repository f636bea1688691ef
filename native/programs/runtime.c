/* runtime.c - cgpu-runtime: stands between a container engine and its real runtime.
 *
 * Every container of the node passes through here, so it is a small static program: it looks whether
 * the container asks anything of cgpu, and becomes the real runtime. What a container asks is for
 * cgpu.oci (Python) to grant. Nothing of the call changes: arguments, environment, descriptors, process.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_http.h"
#include "command_line.h"
#include "conf.h"
#include "hook.h"
#include "say.h"
#include "scan.h"

#define ENDING_TIMEOUT_MS 2000 /* a container must go whatever the agent does */

static int become_runtime(const struct conf *conf, char *argv[]) {
  struct stat own, real;
  if (stat("/proc/self/exe", &own) == 0 && stat(conf->runtime, &real) == 0 && own.st_dev == real.st_dev &&
      own.st_ino == real.st_ino)
    return say("%s names cgpu-runtime itself as the runtime", conf->path);
  argv[0] = (char *)conf->runtime;
  execv(conf->runtime, argv);
  return say("cannot run %s: %s (%s names it)", conf->runtime, strerror(errno), conf->path);
}

static int become_python(const struct conf *conf, int argc, char *argv[]) {
  const char *own[] = {conf->python, "-I", "-m", "cgpu.oci", "--config", conf->path, "--"};
  size_t count = sizeof own / sizeof *own;
  const char **all = calloc(count + (size_t)argc, sizeof *all); /* argv[0] goes, a null comes */
  if (!all) return say("no memory for the arguments");
  memcpy(all, own, sizeof own);
  for (int i = 1; i < argc; i++) all[count + (size_t)i - 1] = argv[i];
  execv(conf->python, (char *const *)all);
  int error = errno;
  free(all);
  return say("cannot run %s: %s (%s names it)", conf->python, strerror(error), conf->path);
}

/* Tells the agent, where the container is a tenant, that it is about to be deleted. */
static void announce_ending(const struct conf *conf, const char *container) {
  static struct answer answer;
  char tenant[TENANT_ID_SIZE], folder[PATH_MAX];
  tenant_id_of(container, tenant);
  if (snprintf(folder, sizeof folder, "%s/%s", conf->tenants, tenant) >= (int)sizeof folder) return;
  if (access(folder, F_OK) == 0) agent_post(conf->socket, tenant, "ending", "", 0, ENDING_TIMEOUT_MS, &answer);
}

int main(int argc, char *argv[]) {
  static struct conf conf;
  if (argc > 1 && strcmp(argv[1], "hook") == 0) return hook(argc - 1, argv + 1);
  if (!conf_read(&conf)) return 1;
  if (argc < 1) return say("called without a name");
  struct command_line line = command_line_parse(argc, argv);
  if (line.command == COMMAND_CREATE && bundle_asks(line.bundle)) return become_python(&conf, argc, argv);
  if (line.command == COMMAND_DELETE && line.container) announce_ending(&conf, line.container);
  return become_runtime(&conf, argv);
}
