/* agent_http.h - one request to the agent over its Unix socket. */
#ifndef CGPU_PROGRAMS_AGENT_HTTP_H
#define CGPU_PROGRAMS_AGENT_HTTP_H

#include <stddef.h>

#define ANSWER_MAX 65536 /* bytes of an answer that are read */

struct answer {
  int status;                /* HTTP's; 0: no answer */
  char problem[256];         /* why there is none */
  const char *body;          /* within `text`, NUL-terminated */
  char text[ANSWER_MAX + 1]; /* head and body */
};

/* POSTs `body` to /v1/tenants/<tenant>/<verb> and waits for the answer for at most `timeout_ms` in all. */
void agent_post(const char *socket, const char *tenant, const char *verb, const char *body, size_t length,
                int timeout_ms, struct answer *answer);

/* The value of a text in a JSON object, decoded into one line of UTF-8: "" where the body has none. */
void json_text(const char *body, const char *key, char *value, size_t size);

/* The same of a text whose first character is at `at`; null is an empty one. */
void json_decode(const char *at, char *value, size_t size);

/* The text as what stands between the quotes of a JSON text, cut to the size. All but ASCII becomes a question mark,
 * since what names files need not be UTF-8. */
void json_encode(const char *text, char *quoted, size_t size);

/* CLOCK_MONOTONIC in milliseconds. */
long long now_ms(void);

/* Waits until the descriptor is ready for `events` (as poll); 0 when the deadline came first. */
int wait_for(int fd, short events, long long deadline_ms);

#endif
