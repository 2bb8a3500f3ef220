/* onnxruntime's entry point, and which operators it is given. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bit_planes.h"
#include "operators.h"

typedef OrtStatus* (*create_domain_fn)(const char*, OrtCustomOpDomain**);
typedef OrtStatus* (*domain_add_fn)(OrtCustomOpDomain*, const OrtCustomOp*);
typedef OrtStatus* (*add_domain_fn)(OrtSessionOptions*, OrtCustomOpDomain*);

SXQ_EXPORT size_t sxq_copied_bytes(void) {
  return sxq_copied_plane_bytes();
}

SXQ_EXPORT const char* sxq_instruction_set(void) {
  return sxq_kernels_here()->name;
}

/* Domains that were made, each for one selection of operators. They live as long as the process, as sessions keep
 * using theirs; the caller of sxq_select and RegisterCustomOps holds a lock of its own over both. */
typedef struct made_domain made_domain;
struct made_domain {
  made_domain* next;
  OrtCustomOpDomain* domain;
  char names[];
};
static made_domain* made_domains;
static char* selection; /* names between spaces, with one at each end; NULL for all */

/* Which operators the next call of RegisterCustomOps registers: names with a space around each; NULL for all.
 *
 * Registering all of them is correct and takes onnxruntime 0.2 s for each session, as there is one for every neuron.
 */
SXQ_EXPORT int sxq_select(const char* names) {
  free(selection);
  selection = names ? strdup(names) : NULL;
  return !names || selection;
}

static bool selected(const char* name) {
  char between[SXQ_NAME_LENGTH + 2];
  if (!selection) return true;
  snprintf(between, sizeof between, " %s ", name);
  return strstr(selection, between) != NULL;
}

static OrtStatus* make_domain(const OrtApi* api, const char* names, OrtCustomOpDomain** domain) {
  made_domain* made = malloc(sizeof *made + strlen(names) + 1);
  if (!made) return sxq_error(api, "The native library of snn_extreme_quant ran out of memory.");
  const size_t count = sxq_operator_count();
  OrtStatus* status = ((create_domain_fn)api->entry[ORT_CREATE_CUSTOM_OP_DOMAIN])("snn.extreme_quant", &made->domain);
  for (size_t i = 0; !status && i < count; ++i) {
    if (!selected(sxq_operator_at(i)->name)) continue;
    status = ((domain_add_fn)api->entry[ORT_CUSTOM_OP_DOMAIN_ADD])(made->domain, &sxq_operator_at(i)->base);
  }
  if (status) {
    free(made);
    return status;
  }
  strcpy(made->names, names);
  made->next = made_domains;
  made_domains = made;
  *domain = made->domain;
  return NULL;
}

/* onnxruntime's entry point of a custom-operator library. */
SXQ_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->get_api(ORT_INTERFACE_VERSION);
  if (!api) return NULL; /* older than 1.17: the functions' bodies run */
  if (!sxq_operator_count()) return sxq_error(api, "The native library of snn_extreme_quant ran out of memory.");
  const char* names = selection ? selection : "";
  OrtCustomOpDomain* domain = NULL;
  for (const made_domain* made = made_domains; made && !domain; made = made->next) {
    if (!strcmp(made->names, names)) domain = made->domain;
  }
  OrtStatus* status = domain ? NULL : make_domain(api, names, &domain);
  return status ? status : ((add_domain_fn)api->entry[ORT_ADD_CUSTOM_OP_DOMAIN])(options, domain);
}
