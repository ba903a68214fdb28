#include "dsl/diagnostics.h"
