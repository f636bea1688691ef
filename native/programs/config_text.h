/* config_text.h - what is needed of a container's config.json, without understanding the rest.
 *
 * Within a JSON text every quote is escaped, so `"key"` followed by a colon is that key. The first of a name counts:
 * engines write `process` and `root` ahead of what may hold their names again. */
#ifndef CGPU_PROGRAMS_CONFIG_TEXT_H
#define CGPU_PROGRAMS_CONFIG_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* The object that is the value of the key, at its brace; null where there is none. */
const char *config_object(const char *config, const char *key);

/* The first text of the list of that key: "" where there is none. */
void config_first_text(const char *object, const char *key, char *value, size_t size);

/* The last value of a variable in the object's list `env`; false where it has none. */
bool config_variable(const char *object, const char *name, char *value, size_t size);

/* The path of the container's root for processes of the host; false, with the cause said, where there is none. */
bool config_root(const char *bundle, const char *config, char *path, size_t size);

/* The quote that ends a text whose first character is at `at`, or the end of all. */
const char *end_of_text(const char *at);

#endif
