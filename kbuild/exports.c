// SPDX-License-Identifier: GPL-2.0
/*
 * The symbols of the module, for the modules of drivers. Their types are in the metadata of the crate; here each
 * is a name. As for Linux's own crates, whose rust/exports.c this follows, only modules under the GPL may use
 * them.
 */
#include <linux/export.h>
#include <linux/module.h>

#include "exports_generated.h"

MODULE_DESCRIPTION("Pinned memory: packed scatterlists, and pin, charge, map, unmap, unpin");
MODULE_LICENSE("GPL");
