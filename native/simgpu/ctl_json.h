/* ctl_json.h - the state of the joined machine as a JSON document. */
#ifndef CGPU_SIM_CTL_JSON_H
#define CGPU_SIM_CTL_JSON_H

#include <stddef.h>

int ctl_status(char *text, size_t bytes); /* its whole length, or an sg_error; cut when not less than `bytes` */

#endif
