#include "CSoftCPU.h"

#include <stdlib.h>

soft_code_page *soft_make_code_pages(size_t count) { return calloc(count, sizeof(soft_code_page)); }

void soft_free_code_pages(soft_code_page *pages) { free(pages); }
