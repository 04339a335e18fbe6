# SPDX-License-Identifier: MIT OR Apache-2.0
# Listen on what app-cluster passes, and nowhere else.
bind_to_activated_sockets 'only'
