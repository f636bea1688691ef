/* command_line.h - the command line of an OCI runtime, as far as cgpu must understand it.
 *
 * runc and youki and crun differ in their parsers; what engines really write is common to all.
 */
#ifndef CGPU_PROGRAMS_COMMAND_LINE_H
#define CGPU_PROGRAMS_COMMAND_LINE_H

#include <stddef.h>

enum command { COMMAND_OTHER, COMMAND_CREATE, COMMAND_DELETE };

struct command_line {
  enum command command;  /* `run` is a COMMAND_CREATE too */
  const char *bundle;    /* of a COMMAND_CREATE; "." where the line names none */
  const char *container; /* the container's id, or null */
};

/* Reads argv[1] .. argv[argc - 1]. The result points into them. */
struct command_line command_line_parse(int argc, char *const argv[]);

/* The tenant of a container, as model/container.py:tenant_id_of. */
#define TENANT_ID_SIZE 64
void tenant_id_of(const char *container, char tenant[TENANT_ID_SIZE]);

/* Whether this is the id of a tenant: letters, digits, '.', '_', '-', at most 63 bytes. */
int is_tenant_id(const char *text);

#endif
