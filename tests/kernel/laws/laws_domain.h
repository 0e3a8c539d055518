/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef LAWS_DOMAIN_H
#define LAWS_DOMAIN_H

#include <linux/types.h>

struct iommu_domain;

/*
 * A paging domain of 64 pages without hardware, whose functions sleep where they can be interrupted by
 * others: null without memory. One that does not refuse replaces what is mapped, as some drivers do.
 */
struct iommu_domain *laws_domain_new(bool refuses);
void laws_domain_free(struct iommu_domain *domain);
/* How often an entry was replaced, or a table looked at that was freed. */
u64 laws_domain_faults(struct iommu_domain *domain);
/* All bits that memory was ever mapped with. */
u32 laws_domain_prots(struct iommu_domain *domain);

#endif
