/* inside_text.h - a region as JSON, and as text for people. The forms are cli/smi.py's. */
#ifndef CGPU_PROGRAMS_INSIDE_TEXT_H
#define CGPU_PROGRAMS_INSIDE_TEXT_H

#include "inside_region.h"

void print_smi_json(const struct inside *inside);
void print_smi_text(const struct inside *inside);
void print_info_json(const struct inside *inside);
void print_info_text(const struct inside *inside);

#endif
