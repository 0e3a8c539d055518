/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Other names for what the kernel's umem.c defines: included before rdma/ib_umem.h, which declares them so. */
#define ib_umem_get_desc c_umem_get_desc
#define ib_umem_get_attr c_umem_get_attr
#define ib_umem_get_attr_or_va c_umem_get_attr_or_va
#define ib_umem_get_cq_buf c_umem_get_cq_buf
#define ib_umem_get_cq_buf_or_va c_umem_get_cq_buf_or_va
#define ib_umem_get_va c_umem_get_va
#define ib_umem_release c_umem_release
#define ib_umem_copy_from c_umem_copy_from
#define ib_umem_find_best_pgsz c_umem_find_best_pgsz
#define ib_umem_check_rereg c_umem_check_rereg
#define ib_umem_dmabuf_release c_umem_dmabuf_release
