#include "CSoftCPU.h"
