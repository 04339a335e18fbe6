// SPDX-License-Identifier: MIT OR Apache-2.0
module hello

go 1.18
