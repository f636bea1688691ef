// sources: programs/command_line.c programs/conf.c programs/json_text.c programs/say.c
/* The parsers of the small programs: what they make of good input, and that no input leads them astray. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_http.h"
#include "command_line.h"
#include "conf.h"

#define ROUNDS 20000
#define CHECK(condition) \
  do { \
    if (!(condition)) return printf("%s:%d: %s\n", __FILE__, __LINE__, #condition), 1; \
  } while (0)

static unsigned long long state = 0x9E3779B97F4A7C15ull;

static unsigned random_below(unsigned limit) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)(state >> 33) % limit;
}

static int command_lines(void) {
  char *create[] = {"c", "--root", "create", "--log=x", "--debug", "create", "--pid-file", "run", "-b", "/b", "id"};
  struct command_line line = command_line_parse(11, create);
  CHECK(line.command == COMMAND_CREATE && strcmp(line.bundle, "/b") == 0 && strcmp(line.container, "id") == 0);
  char *run[] = {"c", "-log-format", "json", "run", "id", "-bundle=/x", "-d"};
  line = command_line_parse(7, run);
  CHECK(line.command == COMMAND_CREATE && strcmp(line.bundle, "/x") == 0 && strcmp(line.container, "id") == 0);
  char *delete[] = {"c", "delete", "-f", "--", "-id"};
  line = command_line_parse(5, delete);
  CHECK(line.command == COMMAND_DELETE && strcmp(line.container, "-id") == 0);
  char *cut[] = {"c", "create", "--bundle"};
  line = command_line_parse(3, cut);
  CHECK(line.command == COMMAND_CREATE && strcmp(line.bundle, ".") == 0 && !line.container);
  char *other[] = {"c", "exec", "create"};
  CHECK(command_line_parse(3, other).command == COMMAND_OTHER);
  CHECK(command_line_parse(0, NULL).command == COMMAND_OTHER);
  return 0;
}

static int random_command_lines(void) {
  char *const words[] = {"", "-", "--", "-b", "-b=", "-b/x", "--bundle", "--bundle=", "create", "run", "delete", "=",
                         "--root", "--=", "id", "-f"};
  for (int round = 0; round < ROUNDS; round++) {
    char *argv[9];
    int argc = (int)random_below(9);
    for (int i = 0; i < argc; i++) argv[i] = words[random_below(sizeof words / sizeof *words)];
    argv[argc] = NULL;
    struct command_line line = command_line_parse(argc, argv);
    CHECK(line.bundle && (!line.container || line.command != COMMAND_OTHER));
  }
  return 0;
}

/* Text in a block of its exact size, so that a sanitizer sees a step beyond its end. */
static char *random_text(const char *letters, size_t most) {
  size_t length = random_below((unsigned)most), kinds = strlen(letters);
  char *text = malloc(length + 1);
  if (!text) abort();
  for (size_t i = 0; i < length; i++) text[i] = letters[random_below((unsigned)kinds)];
  text[length] = 0;
  return text;
}

static int tenant_ids(void) {
  for (int round = 0; round < ROUNDS; round++) {
    char tenant[TENANT_ID_SIZE];
    char *container = random_text("ab.-_/ \xC3\xA9\xE2\x82\xAC\xF0\x9F\xED\xA0\xFF", 90);
    tenant_id_of(container, tenant);
    CHECK(is_tenant_id(tenant));
    free(container);
  }
  return 0;
}

static int json_texts(void) {
  char value[64];
  json_text("{\"a\": \"message\", \"message\" : \"no \\\"room\\\"\\n\\u00e9\\ud83d\\ude00\\ud83d!\"}", "message", value,
            sizeof value);
  CHECK(strcmp(value, "no \"room\" \xC3\xA9\xF0\x9F\x98\x80\xEF\xBF\xBD!") == 0);
  json_text("{\"message\": 7}", "message", value, sizeof value);
  CHECK(!*value);
  for (int round = 0; round < ROUNDS; round++) {
    char *tail = random_text("\\u0dD8\"ac \n}", 24), body[64];
    snprintf(body, sizeof body, "{\"message\":\"%s", tail);
    char *exact = strdup(body);
    json_text(exact, "message", value, 1 + random_below(sizeof value));
    CHECK(!strchr(value, '\n'));
    free(exact);
    free(tail);
  }
  return 0;
}

static int json_quoted_texts(void) {
  char quoted[64], value[64];
  json_encode("a \"b\" \\c\nd\x7F \xC3\xA9", quoted, sizeof quoted);
  CHECK(strcmp(quoted, "a \\\"b\\\" \\\\c d  ??") == 0);
  for (int round = 0; round < ROUNDS; round++) {
    char *text = random_text("\\\"a\n\xFF", 24), body[96];
    size_t size = 1 + random_below(sizeof quoted);
    json_encode(text, quoted, size);
    CHECK(strlen(quoted) < size);
    snprintf(body, sizeof body, "{\"said\":\"%s\",\"end\":\"here\"}", quoted);
    json_text(body, "end", value, sizeof value);
    CHECK(strcmp(value, "here") == 0);
    free(text);
  }
  return 0;
}

static int confs(void) {
  static struct conf conf;
  char problem[64];
  strcpy(conf.text, " runtime = /r\r\n# x\n\npython=/p\nsocket\t= /s \ntenants = /t\nlater = 1");
  CHECK(conf_parse(&conf, problem, sizeof problem));
  CHECK(strcmp(conf.runtime, "/r") == 0 && strcmp(conf.socket, "/s") == 0 && !conf.sim_state);
  for (int round = 0; round < ROUNDS; round++) {
    char *text = random_text("=/\n #runtime\t", 60);
    snprintf(conf.text, sizeof conf.text, "runtime=/r\n%s", text);
    CHECK(!conf_parse(&conf, problem, sizeof problem) && *problem);
    free(text);
  }
  return 0;
}

int main(void) {
  return command_lines() || random_command_lines() || tenant_ids() || json_texts() || json_quoted_texts() ||
         confs();
}
