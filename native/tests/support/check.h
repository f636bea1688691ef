/* check.h - saying what failed, and where. */
#ifndef CGPU_TESTS_CHECK_H
#define CGPU_TESTS_CHECK_H

#include <stdio.h>

static int failures;

#define CHECK(condition, ...)                                  \
  do {                                                         \
    if (!(condition)) {                                        \
      printf("%s:%d: %s ", __FILE__, __LINE__, #condition);    \
      printf(" " __VA_ARGS__);                                 \
      putchar('\n');                                           \
      failures++;                                              \
    }                                                          \
  } while (0)

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
