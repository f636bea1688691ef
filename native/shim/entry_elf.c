/* entry_elf.c - see entry_elf.h. Formats: the System V ABI's "Dynamic Linking" chapter for DT_HASH,
 * the GNU dynamic linker for DT_GNU_HASH and DT_VERSYM. */
#include "entry_elf.h"

#include <stddef.h>
#include <string.h>

#define VERSION_HIDDEN 0x8000u /* not the default version of its name */
#define VERSION_LOCAL 0u       /* VER_NDX_LOCAL: not exported */

/* glibc relocates the addresses in a loaded dynamic section in place, except where the section is
 * read-only (the vDSO, some architectures): there they are still relative. */
static const void *address(uintptr_t base, ElfW(Addr) value) {
  return (const void *)(value < base ? base + value : value);
}

bool cg_elf_open(struct cg_elf *elf, uintptr_t base, const ElfW(Dyn) *dynamic) {
  *elf = (struct cg_elf){.base = base};
  const ElfW(Dyn) *soname = NULL;
  for (const ElfW(Dyn) *entry = dynamic; entry->d_tag != DT_NULL; entry++) {
    switch (entry->d_tag) {
      case DT_SYMTAB: elf->symbols = address(base, entry->d_un.d_ptr); break;
      case DT_STRTAB: elf->strings = address(base, entry->d_un.d_ptr); break;
      case DT_GNU_HASH: elf->gnu_hash = address(base, entry->d_un.d_ptr); break;
      case DT_HASH: elf->sysv_hash = address(base, entry->d_un.d_ptr); break;
      case DT_VERSYM: elf->versions = address(base, entry->d_un.d_ptr); break;
      case DT_SONAME: soname = entry; break;
      default: break;
    }
  }
  if (!elf->symbols || !elf->strings || (!elf->gnu_hash && !elf->sysv_hash)) return false;
  if (soname) elf->soname = elf->strings + soname->d_un.d_val;
  return true;
}

bool cg_elf_open_loaded(struct cg_elf *elf, const struct dl_phdr_info *object) {
  for (unsigned i = 0; i < object->dlpi_phnum; i++) {
    if (object->dlpi_phdr[i].p_type == PT_DYNAMIC)
      return cg_elf_open(elf, object->dlpi_addr,
                         (const ElfW(Dyn) *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr));
  }
  return false;
}

static bool defines(const struct cg_elf *elf, uint32_t index, const char *name) {
  const ElfW(Sym) *symbol = &elf->symbols[index];
  if (symbol->st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol->st_info) != STT_FUNC) return false;
  if (elf->versions) {
    uint16_t version = elf->versions[index];
    if (version & VERSION_HIDDEN || version == VERSION_LOCAL) return false;
  }
  return strcmp(elf->strings + symbol->st_name, name) == 0;
}

/* Index of the defining symbol, or 0, which is never a definition. */
static uint32_t find_gnu(const struct cg_elf *elf, const char *name) {
  const uint32_t buckets = elf->gnu_hash[0], first = elf->gnu_hash[1], words = elf->gnu_hash[2],
                 shift = elf->gnu_hash[3];
  const ElfW(Addr) *bloom = (const ElfW(Addr) *)&elf->gnu_hash[4];
  const uint32_t *bucket = (const uint32_t *)&bloom[words], *chain = &bucket[buckets];
  const unsigned bits = 8 * sizeof(ElfW(Addr));
  uint32_t hash = 5381;
  for (const char *c = name; *c; c++) hash = hash * 33 + (unsigned char)*c;

  ElfW(Addr) word = bloom[hash / bits % words];
  if (!(word >> hash % bits & word >> (hash >> shift) % bits & 1)) return 0;
  uint32_t index = bucket[hash % buckets];
  if (index < first) return 0;
  for (;; index++) {
    uint32_t entry = chain[index - first];
    if ((entry | 1) == (hash | 1) && defines(elf, index, name)) return index;
    if (entry & 1) return 0; /* end of the chain */
  }
}

static uint32_t find_sysv(const struct cg_elf *elf, const char *name) {
  const uint32_t buckets = elf->sysv_hash[0];
  const uint32_t *bucket = &elf->sysv_hash[2], *chain = &bucket[buckets];
  uint32_t hash = 0;
  for (const char *c = name; *c; c++) {
    hash = (hash << 4) + (unsigned char)*c;
    hash = (hash ^ (hash >> 24 & 0xf0)) & 0x0fffffff;
  }
  for (uint32_t index = bucket[hash % buckets]; index; index = chain[index])
    if (defines(elf, index, name)) return index;
  return 0;
}

void *cg_elf_function(const struct cg_elf *elf, const char *name) {
  uint32_t index = elf->gnu_hash ? find_gnu(elf, name) : find_sysv(elf, name);
  return index ? (void *)(elf->base + elf->symbols[index].st_value) : NULL;
}

/* Made by the linker at the load address, as _DYNAMIC of <link.h> is for the dynamic section. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

bool cg_elf_open_self(struct cg_elf *elf) {
  return cg_elf_open(elf, (uintptr_t)&__ehdr_start, _DYNAMIC);
}
