#include "spec.h"

#include <stdio.h>

static const char* const charge_names[] = {"leak", "lapicque", "integrate", "relax_input", "relax", "rate_input",
                                           "rate", "synaptic", "alpha"};
static const char* const comparison_names[] = {"gt", "ge"};
static const char* const reset_names[] = {"subtract", "zero", "cancel", "value", "none"};
static const char* const timing_names[] = {"same_step", "delayed", "compensated"};
static const char* const fire_names[] = {"", "_ternary", "_count", "_change"};
static const int charge_parameters[] = {1, 4, 0, 2, 2, 2, 2, 2, 3};

bool sxq_spec_legal(const sxq_spec* spec) {
  const bool same_step = spec->timing == SXQ_SAME_STEP;
  if (spec->reset == (same_step ? SXQ_CANCEL : SXQ_VALUE)) return false;
  if (spec->fire != SXQ_SPIKE && (!same_step || spec->graded)) return false;
  if (spec->fire == SXQ_COUNT && spec->reset != SXQ_SUBTRACT && spec->reset != SXQ_NONE) return false;
  if (spec->fire == SXQ_CHANGE && spec->reset != SXQ_NONE) return false;
  if (spec->charge == SXQ_ALPHA && (spec->timing != SXQ_DELAYED || spec->reset == SXQ_ZERO)) return false;
  if (spec->integer) {
    const bool known = spec->charge == SXQ_LEAK || spec->charge == SXQ_INTEGRATE || spec->charge >= SXQ_SYNAPTIC;
    if (!known || spec->graded || spec->vector) return false;
  }
  return !(spec->step && spec->states); /* a single step always gives its states */
}

void sxq_spec_name(const sxq_spec* spec, char name[SXQ_NAME_LENGTH]) {
  snprintf(
      name, SXQ_NAME_LENGTH, "%s%sLIF_%s_%s_%s_%s%s%s%s%s", spec->step ? "Step" : "", spec->integer ? "Int" : "", charge_names[spec->charge],
      comparison_names[spec->comparison], reset_names[spec->reset], timing_names[spec->timing],
      fire_names[spec->fire], spec->graded ? "_graded" : "", spec->vector ? "_vector" : "",
      spec->states ? "_states" : "");
}

size_t sxq_spec_states(const sxq_spec* spec) {
  return spec->charge == SXQ_ALPHA ? 3 : spec->charge == SXQ_SYNAPTIC ? 2 : 1;
}

sxq_parameters sxq_spec_parameters(const sxq_spec* spec) {
  sxq_parameters places = {-1, -1, -1, (spec->integer ? 3 : 1) + charge_parameters[spec->charge]};
  if (spec->reset == SXQ_VALUE) places.v_reset = places.count++;
  if (spec->graded) places.amplitude = places.count++;
  if (spec->fire == SXQ_COUNT) places.levels = places.count++;
  return places;
}
