// sources: programs/command_line.c programs/conf.c programs/config_text.c programs/json_text.c
/* What the small programs read: a container's config.json and state, the agent's answers, cgpu-runtime.conf, command
 * lines, and the programs of an image. Foreign text comes out as one line; nothing is read or written beyond. */
#include <stdio.h>

#include "command_line.h"
#include "conf.h"
#include "reading.h"

#include "../programs/image.c" // NOLINT: its readers of ELF files and scripts are private

int say(const char *format, ...) { return !!format; }

static void read_json(const char *text) {
  static const char *const keys[] = {"message", "bundle", "path", "args"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    for (size_t size = 1; size <= 64; size *= 4) {
      char *value = malloc(size); /* of exactly that size */
      if (!value) abort();
      json_text(text, keys[i], value, size);
      HOLDS(strnlen(value, size) < size && !strpbrk(value, "\n\r\t\x1b\x7f"));
      free(value);
    }
  }
}

/* What is written into a JSON text neither ends it nor hides what follows. */
static void write_json(const char *text) {
  char quoted[48], body[96], value[64];
  json_encode(text, quoted, sizeof quoted);
  HOLDS(strnlen(quoted, sizeof quoted) < sizeof quoted);
  snprintf(body, sizeof body, "{\"said\": \"%s\", \"end\": \"here\"}", quoted);
  json_text(body, "end", value, sizeof value);
  HOLDS(strcmp(value, "here") == 0);
}

static void read_config(const char *text) {
  char path[64], value[64];
  const char *process = config_object(text, "process");
  config_root("/b", text, path, sizeof path);
  if (!process) return;
  config_first_text(process, "args", value, sizeof value);
  HOLDS(strnlen(value, sizeof value) < sizeof value);
  if (config_variable(process, "PATH", value, sizeof value)) HOLDS(strnlen(value, sizeof value) < sizeof value);
}

static void read_conf(const char *text) {
  static struct conf conf;
  char problem[128] = "";
  snprintf(conf.text, sizeof conf.text, "%s", text);
  if (conf_parse(&conf, problem, sizeof problem)) HOLDS(*conf.runtime == '/' && *conf.socket == '/');
  else HOLDS(*problem && strnlen(problem, sizeof problem) < sizeof problem);
}

static void read_words(char *text) {
  char *words[32] = {"cgpu-runtime"}, tenant[TENANT_ID_SIZE];
  int count = 1;
  for (char *rest = text, *word; count < 31 && (word = strsep(&rest, "\n"));) words[count++] = word;
  struct command_line line = command_line_parse(count, words);
  HOLDS(line.bundle && (!line.container || line.command != COMMAND_OTHER));
  if (!line.container) return;
  tenant_id_of(line.container, tenant);
  HOLDS(is_tenant_id(tenant));
}

static void read_program(const uint8_t *data, size_t size) {
  const struct file file = {(const char *)data, size};
  char path[64] = "";
  if (is_elf(&file)) {
    is_ours(&file);
    loader_of(&file, path, sizeof path);
  } else if (size) {
    follow_script(&file, path, sizeof path);
  }
  HOLDS(strnlen(path, sizeof path) < sizeof path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = take_text(&(struct reading){data, data + size});
  read_program(data, size);
  read_json(text);
  write_json(text);
  read_config(text);
  read_conf(text);
  read_words(text);
  free(text);
  return 0;
}
