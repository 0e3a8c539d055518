// SPDX-License-Identifier: MIT OR Apache-2.0
/* Page structures of frames, which bindgen does not cover. */
#include <linux/mm.h>
#include "laws_pages.h"

struct page *laws_page(u64 pfn)
{
	return pfn_valid(pfn) ? pfn_to_page(pfn) : NULL;
}
