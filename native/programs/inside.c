/* inside.c - `cgpu` within a container: what the tenant has, read from its own region.
 *
 * The image need have neither Python nor a C library for it. It asks no agent, and changes nothing.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "inside_region.h"
#include "inside_text.h"
#include "say.h"

#define EXIT_USAGE 2 /* the codes of errors.py */
#define EXIT_REGION 6

static const char help[] =
    "usage: cgpu [--help] [--version] COMMAND [--json]\n"
    "\n"
    "cgpu in a container: this container's share of the GPU.\n"
    "\n"
    "commands:\n"
    "  smi     show the share, and the processes that use it\n"
    "  info    show the version and the tenant\n"
    "\n"
    "All other commands of cgpu work on the host.\n";

static int refuse(const char *cause, const char *word) {
  say("%s %s (see cgpu --help)", cause, word);
  return EXIT_USAGE;
}

int main(int argc, char *argv[]) {
  static struct inside inside;
  const char *verb = NULL;
  bool json = false;
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) return fputs(help, stdout) < 0;
    if (strcmp(word, "--version") == 0 && !verb) return printf("cgpu %s\n", CGPU_VERSION) < 0;
    if (!verb && word[0] != '-') {
      verb = word;
      if (strcmp(verb, "smi") != 0 && strcmp(verb, "info") != 0) return refuse("works on the host only: cgpu", verb);
    } else if (strcmp(word, "--json") == 0) {
      json = true;
    } else {
      return refuse("unknown argument:", word);
    }
  }
  if (!verb) return refuse("no command given:", "smi or info");
  if (!inside_read(&inside)) return EXIT_REGION;
  if (strcmp(verb, "smi") == 0) (json ? print_smi_json : print_smi_text)(&inside);
  else (json ? print_info_json : print_info_text)(&inside);
  return fflush(stdout) != 0;
}
