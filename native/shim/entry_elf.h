/* entry_elf.h - reading the dynamic symbol tables of objects that are loaded in this process.
 *
 * dlsym cannot be used for this: it is what we replace, it overwrites the caller's dlerror(), and it
 * resolves by scope where we ask one object. Everything read here is mapped and already relocated.
 */
#ifndef CGPU_SHIM_ENTRY_ELF_H
#define CGPU_SHIM_ENTRY_ELF_H

#include <link.h>
#include <stdbool.h>
#include <stdint.h>

/* The symbol table of one loaded object; all pointers point into the object itself. */
struct cg_elf {
  uintptr_t base; /* load address: what the object's symbol values are relative to */
  const ElfW(Sym) *symbols;
  const char *strings;
  const uint32_t *gnu_hash;  /* null: only the old table below */
  const uint32_t *sysv_hash; /* DT_HASH; null where the linker left it out */
  const uint16_t *versions;  /* DT_VERSYM; null: unversioned object */
  const char *soname;        /* null: none */
};

/* Reads a loaded object's dynamic section. False when it has no usable symbol table. */
bool cg_elf_open(struct cg_elf *elf, uintptr_t base, const ElfW(Dyn) *dynamic);
/* The same for an object that dl_iterate_phdr reports. */
bool cg_elf_open_loaded(struct cg_elf *elf, const struct dl_phdr_info *object);

/* The same for this library itself. Its exported functions are exactly the hooks, dlsym and dlvsym, so
 * its own symbol table is the index of the hook list, and nothing has to be built or kept for that. */
bool cg_elf_open_self(struct cg_elf *elf);

/* The address of a function that this object defines under `name`, in its default version; null when
 * it defines none. Dependencies are not searched. */
void *cg_elf_function(const struct cg_elf *elf, const char *name);

#endif
