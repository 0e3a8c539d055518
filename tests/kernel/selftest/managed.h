/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef SELFTEST_MANAGED_H
#define SELFTEST_MANAGED_H

#include <linux/types.h>

struct device;
struct iommu_domain;

/* What `PagingDomain` is made of, with which drivers in C take a device here. */
void *rust_helper_iommu_domain_attach(struct device *device, gfp_t gfp, struct iommu_domain **made);
void rust_helper_iommu_domain_detach(void *resource, struct device *device);

int selftest_managed(void);

#endif
