// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Tables of the DMA API: see runs.rs.
 */

#include <linux/dma-mapping.h>
#include <linux/scatterlist.h>
#include "helpers.h"

/* The bytes of a segment at most, and the mask that its first and last byte must agree beyond. */
__rust_helper void rust_helper_run_table_limits(struct device *device, u64 *max_len,
						u64 *boundary_mask)
{
	/* Bounce buffers may have less room than the device takes in a segment. */
	*max_len = min_t(u64, dma_get_max_seg_size(device), dma_max_mapping_size(device));
	*boundary_mask = dma_get_seg_boundary(device);
	/* On 32 bits it is what an address has, and no boundary. */
	if (*boundary_mask == ULONG_MAX)
		*boundary_mask = U64_MAX;
}

/* Fills one entry of a table, and goes to the next; EINVAL if there is none, or no struct page. */
__rust_helper int rust_helper_run_table_set(struct scatterlist **at, u64 phys, u32 len)
{
	if (!*at || !len || !pfn_valid(PHYS_PFN(phys)) || !pfn_valid(PHYS_PFN(phys + (len - 1))))
		return -EINVAL;
	sg_set_page(*at, pfn_to_page(PHYS_PFN(phys)), len, offset_in_page(phys));
	*at = sg_next(*at);
	cond_resched();
	return 0;
}

__rust_helper u64 rust_helper_run_table_phys(struct scatterlist *entry)
{
	return sg_phys(entry);
}

__rust_helper void rust_helper_dma_sync_sgtable_for_cpu(struct device *device,
							struct sg_table *table,
							enum dma_data_direction direction)
{
	dma_sync_sgtable_for_cpu(device, table, direction);
}

__rust_helper void rust_helper_dma_sync_sgtable_for_device(struct device *device,
							   struct sg_table *table,
							   enum dma_data_direction direction)
{
	dma_sync_sgtable_for_device(device, table, direction);
}

__rust_helper int rust_helper_dma_get_sgtable(struct device *device, struct sg_table *table,
					      void *memory, u64 first, size_t size)
{
	return dma_get_sgtable(device, table, memory, first, size);
}
