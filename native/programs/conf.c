/* conf.c - reading cgpu-runtime.conf. */
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

#define FILE_NAME "cgpu-runtime.conf"

struct key {
  const char *name;
  const char **value;
  bool needed;
};

/* The text without blanks at its ends; cuts it in place. */
static char *trimmed(char *text) {
  text += strspn(text, " \t\r");
  size_t length = strlen(text);
  while (length && strchr(" \t\r", text[length - 1])) length--;
  text[length] = 0;
  return text;
}

static bool parse_line(struct key *keys, size_t count, char *line, int number, char *problem, size_t size) {
  line = trimmed(line);
  if (!*line || *line == '#') return true;
  char *equals = strchr(line, '=');
  if (!equals) {
    snprintf(problem, size, "line %d is not `key = value`", number);
    return false;
  }
  *equals = 0;
  const char *name = trimmed(line), *value = trimmed(equals + 1);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i].name, name) != 0) continue;
    if (*keys[i].value) {
      snprintf(problem, size, "line %d says `%s` a second time", number, name);
      return false;
    }
    if (*value != '/') {
      snprintf(problem, size, "line %d: `%s` is not an absolute path", number, name);
      return false;
    }
    *keys[i].value = value;
  }
  return true;
}

bool conf_parse(struct conf *conf, char *problem, size_t size) {
  conf->runtime = conf->python = conf->socket = conf->tenants = conf->sim_state = NULL;
  struct key keys[] = {
      {"runtime", &conf->runtime, true}, {"python", &conf->python, true},        {"socket", &conf->socket, true},
      {"tenants", &conf->tenants, true}, {"sim_state", &conf->sim_state, false},
  };
  size_t count = sizeof keys / sizeof *keys;
  char *rest = conf->text, *line;
  for (int number = 1; (line = strsep(&rest, "\n")); number++)
    if (!parse_line(keys, count, line, number, problem, size)) return false;
  for (size_t i = 0; i < count; i++) {
    if (!keys[i].needed || *keys[i].value) continue;
    snprintf(problem, size, "it does not say `%s`", keys[i].name);
    return false;
  }
  return true;
}

/* The file's path: beside the executable, whatever the name it was called by. */
static bool find_path(struct conf *conf) {
  ssize_t length = readlink("/proc/self/exe", conf->path, sizeof conf->path - sizeof FILE_NAME);
  if (length <= 0) return false;
  conf->path[length] = 0;
  char *slash = strrchr(conf->path, '/');
  if (!slash) return false;
  strcpy(slash + 1, FILE_NAME); /* room was left for it */
  return true;
}

/* Reads the whole file; null, or why not. */
static const char *read_text(struct conf *conf) {
  int fd = open(conf->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return strerror(errno);
  size_t length = 0;
  ssize_t got;
  while (length <= CONF_MAX - 1) {
    got = read(fd, conf->text + length, CONF_MAX - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    length += (size_t)got;
  }
  int error = got < 0 ? errno : 0;
  close(fd);
  if (error) return strerror(error);
  if (length == CONF_MAX) return "it is too long";
  conf->text[length] = 0;
  return strlen(conf->text) == length ? NULL : "it holds a NUL byte";
}

bool conf_read(struct conf *conf) {
  if (!find_path(conf)) {
    say("cannot find the folder of this program: is /proc mounted?");
    return false;
  }
  const char *trouble = read_text(conf);
  if (trouble) {
    say("cannot use %s: %s; it belongs beside this program", conf->path, trouble);
    return false;
  }
  char problem[256];
  if (conf_parse(conf, problem, sizeof problem)) return true;
  say("cannot use %s: %s", conf->path, problem);
  return false;
}
