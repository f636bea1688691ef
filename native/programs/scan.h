/* scan.h - whether a container asks anything of cgpu. */
#ifndef CGPU_PROGRAMS_SCAN_H
#define CGPU_PROGRAMS_SCAN_H

#include <stdbool.h>

#define SCAN_MAX (16u << 20) /* bytes of a config.json; a longer one is taken for one that asks */

/* Whether the bundle's config.json holds one of the words by which a container asks for a share. False
 * also for a file that cannot be read: the runtime says what is wrong with it. */
bool bundle_asks(const char *bundle);

/* The bundle's config.json, with a NUL behind it; the caller's to free. Null where it cannot be read, or is
 * longer than SCAN_MAX. */
char *bundle_config(const char *bundle);

#endif
