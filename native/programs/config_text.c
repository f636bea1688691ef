/* config_text.c - finding objects, lists and variables in config.json. */
#include "config_text.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "agent_http.h"
#include "say.h"

static const char *skip_blanks(const char *at) { return at + strspn(at, " \t\r\n"); }

/* The value of the key, if it begins with that character, at it. */
static const char *find(const char *text, const char *key, char first) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  for (const char *at = text; (at = strstr(at, quoted)); at++) {
    const char *colon = skip_blanks(at + strlen(quoted));
    if (*colon != ':') continue;
    const char *value = skip_blanks(colon + 1);
    if (*value == first) return value;
  }
  return NULL;
}

const char *config_object(const char *config, const char *key) { return find(config, key, '{'); }

const char *end_of_text(const char *at) {
  while (*at && *at != '"') at += *at == '\\' && at[1] ? 2 : 1;
  return at;
}

/* The next text of a list, decoded; false at the list's end. `*at` is in the list. */
static bool next_text(const char **at, char *value, size_t size) {
  const char *text = skip_blanks(*at);
  if (*text == ',') text = skip_blanks(text + 1);
  if (*text != '"') return false;
  const char *end = end_of_text(text + 1);
  *at = *end ? end + 1 : end;
  json_decode(text + 1, value, size);
  return true;
}

void config_first_text(const char *object, const char *key, char *value, size_t size) {
  const char *list = find(object, key, '[');
  *value = 0;
  if (list) next_text(&(const char *){list + 1}, value, size);
}

bool config_variable(const char *object, const char *name, char *value, size_t size) {
  static char entry[PATH_MAX + 256];
  const char *at = find(object, "env", '[');
  size_t length = strlen(name);
  bool found = false;
  for (at = at ? at + 1 : ""; next_text(&at, entry, sizeof entry);) {
    if (strncmp(entry, name, length) != 0 || entry[length] != '=') continue;
    snprintf(value, size, "%s", entry + length + 1);
    found = true;
  }
  return found;
}

bool config_root(const char *bundle, const char *config, char *path, size_t size) {
  char named[PATH_MAX] = "";
  const char *object = config_object(config, "root");
  if (object) json_text(object, "path", named, sizeof named);
  if (!*named) return say("%s/config.json names no root", bundle), false;
  int length = *named == '/' ? snprintf(path, size, "%s", named) : snprintf(path, size, "%s/%s", bundle, named);
  if (length >= (int)size) return say("the path of the container's root is too long"), false;
  return true;
}
