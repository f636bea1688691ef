/* json_text.c - one text out of a JSON object, for messages, and one into it.
 *
 * Within a JSON text every quote is escaped, so `"key"` followed by a colon is that key. Nothing here
 * depends on the body being JSON: of other bytes it makes nothing, or one harmless line.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_http.h"

static const char *skip_blanks(const char *at) { return at + strspn(at, " \t\r\n"); }

/* The first character of the value, after its quote; null when the body has no such text. */
static const char *find(const char *body, const char *key) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  for (const char *at = body; (at = strstr(at, quoted)); at++) {
    const char *colon = skip_blanks(at + strlen(quoted));
    if (*colon != ':') continue;
    const char *value = skip_blanks(colon + 1);
    if (*value == '"') return value + 1;
  }
  return NULL;
}

/* The number of a \uXXXX at `at` (at the backslash), or -1. */
static long escaped_unit(const char *at) {
  if (at[0] != '\\' || at[1] != 'u' || strspn(at + 2, "0123456789abcdefABCDEF") < 4) return -1;
  char digits[5] = {at[2], at[3], at[4], at[5], 0};
  return strtol(digits, NULL, 16);
}

/* Writes a character as UTF-8, a control character as a blank; the number of bytes. */
static size_t encode(long code, char out[4]) {
  if (code < 0x20 || code == 0x7F) code = ' ';
  if (code >= 0xD800 && code <= 0xDFFF) code = 0xFFFD; /* half a pair */
  if (code < 0x80) return out[0] = (char)code, 1;
  size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
  out[0] = (char)((length == 2 ? 0xC0 : length == 3 ? 0xE0 : 0xF0) | code);
  return length;
}

/* Decodes one character of the text at *at, and moves on. */
static size_t decode(const char **at, char out[4]) {
  const char *here = *at;
  if (here[0] != '\\' || !here[1]) {
    *at = here + 1;
    if ((unsigned char)here[0] < 0x20 || here[0] == 0x7F) return out[0] = ' ', 1;
    return out[0] = here[0], 1; /* a byte of UTF-8 as it is */
  }
  long unit = escaped_unit(here);
  if (unit < 0) { /* \" \\ \/ are themselves, the others are blanks; a \u without digits is dropped */
    *at = here + 2;
    return out[0] = strchr("\"\\/", here[1]) ? here[1] : ' ', 1;
  }
  *at = here + 6;
  long low = unit >= 0xD800 && unit < 0xDC00 ? escaped_unit(*at) : -1;
  if (low >= 0xDC00 && low <= 0xDFFF) {
    *at += 6;
    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  }
  return encode(unit, out);
}

void json_decode(const char *at, char *value, size_t size) {
  size_t length = 0;
  while (at && *at && *at != '"') {
    char bytes[4];
    size_t count = decode(&at, bytes);
    if (length + count >= size) break;
    memcpy(value + length, bytes, count);
    length += count;
  }
  value[length] = 0;
}

void json_text(const char *body, const char *key, char *value, size_t size) {
  json_decode(find(body, key), value, size);
}

void json_encode(const char *text, char *quoted, size_t size) {
  size_t length = 0;
  for (const unsigned char *at = (const unsigned char *)text; *at && length + 2 < size; at++) {
    if (*at == '"' || *at == '\\') quoted[length++] = '\\';
    quoted[length++] = *at >= 0x80 ? '?' : *at < 0x20 || *at == 0x7F ? ' ' : (char)*at;
  }
  quoted[length] = 0;
}
