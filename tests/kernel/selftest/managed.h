/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef SELFTEST_MANAGED_H
#define SELFTEST_MANAGED_H

int selftest_managed(void);

#endif
