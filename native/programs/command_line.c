/* command_line.c - which command, which bundle, which container. */
#include "command_line.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define TENANT_PREFIX "oci-"

/* Options that take a value: of the runtime, then of `create` and `run`. runc reads one dash as two. */
static const char *const global_values[] = {"root", "r", "log", "l", "log-format", "criu", "rootless",
                                            "cgroup-manager", NULL};
static const char *const create_values[] = {"bundle", "b", "console-socket", "pidfd-socket", "pid-file",
                                            "preserve-fds", "config", "f", NULL};

static bool is_option(const char *argument) { return argument[0] == '-' && argument[1] != 0; }

static const char *option_name(const char *argument) {
  argument++;
  return *argument == '-' ? argument + 1 : argument;
}

/* Whether `name`, up to a '=', is one of the names. */
static bool names_one_of(const char *name, const char *const *names) {
  size_t length = strcspn(name, "=");
  for (; *names; names++)
    if (strlen(*names) == length && strncmp(name, *names, length) == 0) return true;
  return false;
}

/* Whether the option's value is the argument that follows it. */
static bool takes_next(const char *argument, const char *const *values) {
  return !strchr(argument, '=') && names_one_of(option_name(argument), values);
}

static enum command command_of(const char *word) {
  if (strcmp(word, "create") == 0 || strcmp(word, "run") == 0) return COMMAND_CREATE;
  return strcmp(word, "delete") == 0 ? COMMAND_DELETE : COMMAND_OTHER;
}

/* The bundle that this argument gives by itself: --bundle=X, or -bX as crun reads it; else null. */
static const char *joined_bundle(const char *argument) {
  const char *name = option_name(argument), *equals = strchr(name, '=');
  if (equals && (strncmp(name, "bundle=", 7) == 0 || strncmp(name, "b=", 2) == 0)) return equals + 1;
  if (argument[1] == 'b' && (argument[2] == '/' || argument[2] == '.')) return argument + 2;
  return NULL;
}

static void parse_command(struct command_line *line, int argc, char *const argv[], int at) {
  static const char *const none[] = {NULL}, *const bundle[] = {"bundle", "b", NULL};
  const char *const *values = line->command == COMMAND_CREATE ? create_values : none;
  bool options = true;
  for (; at < argc; at++) {
    const char *argument = argv[at], *joined;
    if (options && strcmp(argument, "--") == 0) {
      options = false;
    } else if (!options || !is_option(argument)) {
      if (!line->container) line->container = argument;
    } else if (line->command == COMMAND_CREATE && (joined = joined_bundle(argument))) {
      line->bundle = joined;
    } else if (takes_next(argument, values) && at + 1 < argc) {
      at++;
      if (names_one_of(option_name(argument), bundle)) line->bundle = argv[at];
    }
  }
}

struct command_line command_line_parse(int argc, char *const argv[]) {
  struct command_line line = {COMMAND_OTHER, ".", NULL};
  for (int at = 1; at < argc; at++) {
    if (strcmp(argv[at], "--") == 0) continue;
    if (is_option(argv[at])) {
      if (takes_next(argv[at], global_values)) at++;
      continue;
    }
    line.command = command_of(argv[at]);
    if (line.command != COMMAND_OTHER) parse_command(&line, argc, argv, at + 1);
    break;
  }
  return line;
}

/* ---- the tenant's id ---- */

static bool is_safe(unsigned char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '.' ||
         byte == '_' || byte == '-';
}

/* Bytes of the character at `text`, as Python counts characters: one for a byte that is not UTF-8. */
static size_t character(const unsigned char *text) {
  unsigned char first = text[0];
  if (first < 0xC2 || first > 0xF4) return 1;
  size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < length; i++)
    if ((text[i] & 0xC0) != 0x80) return 1;
  if (length < 3) return length;
  /* Longer than needed, a surrogate, or beyond the last character. */
  bool wrong = (first == 0xE0 && text[1] < 0xA0) || (first == 0xED && text[1] > 0x9F) ||
               (first == 0xF0 && text[1] < 0x90) || (first == 0xF4 && text[1] > 0x8F);
  return wrong ? 1 : length;
}

void tenant_id_of(const char *container, char tenant[TENANT_ID_SIZE]) {
  strcpy(tenant, TENANT_PREFIX);
  size_t length = strlen(tenant);
  const unsigned char *at = (const unsigned char *)container;
  for (; *at && length < TENANT_ID_SIZE - 1; at += character(at)) tenant[length++] = is_safe(*at) ? (char)*at : '-';
  while (length && strchr("._-", tenant[length - 1])) length--;
  tenant[length] = 0;
}

int is_tenant_id(const char *text) {
  size_t length = 0;
  while (text[length] && is_safe((unsigned char)text[length])) length++;
  return length > 0 && length < TENANT_ID_SIZE && !text[length] && text[0] != '.';
}
