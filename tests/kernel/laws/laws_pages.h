/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef LAWS_PAGES_H
#define LAWS_PAGES_H

#include <linux/types.h>

struct page;

/* The page structure of a frame, or null if there is no such frame. */
struct page *laws_page(u64 pfn);

#endif
