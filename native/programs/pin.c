/* pin.c - a runtime's config.json tells where the container's root is; what is mounted there stays. */
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "config_text.h"
#include "say.h"
#include "scan.h"

static const char *skip_blanks(const char *at) { return at + strspn(at, " \t\r\n"); }

/* Whether the object says "readonly": true. It holds texts and words, no objects. */
static bool says_readonly(const char *object) {
  const char *at = object + 1;
  while (*at && *at != '}') {
    if (*at != '"') {
      at++;
      continue;
    }
    const char *text = at + 1, *end = end_of_text(text);
    at = *end ? end + 1 : end;
    const char *colon = skip_blanks(at);
    if (end - text == 8 && memcmp(text, "readonly", 8) == 0 && *colon == ':')
      return strncmp(skip_blanks(colon + 1), "true", 4) == 0;
  }
  return false;
}

static int pin_below(const char *root) {
  int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return say("cannot open the container's root %s: %s", root, strerror(errno));
  int etc = openat(folder, "etc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  close(folder);
  if (etc < 0) return 0; /* a link, or not there */
  /* By the working folder: no name is looked up again that the image could lead elsewhere. */
  bool bound = fchdir(etc) == 0 && mount(".", ".", NULL, MS_BIND | MS_REC, NULL) == 0;
  int error = errno;
  close(etc);
  return bound ? 0 : say("cannot bind %s/etc: %s", root, strerror(error));
}

int pin_etc(const char *bundle) {
  char root[PATH_MAX];
  char *config = bundle_config(bundle);
  if (!config) return say("cannot read %s/config.json", bundle);
  const char *object = config_object(config, "root");
  bool readonly = object && says_readonly(object), found = config_root(bundle, config, root, sizeof root);
  free(config);
  if (!found) return 1;
  return readonly ? 0 : pin_below(root);
}
