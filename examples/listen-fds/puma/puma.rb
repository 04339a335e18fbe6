# SPDX-License-Identifier: MIT OR Apache-2.0
# Listen on what app-cluster passes, and nowhere else.
bind_to_activated_sockets 'only'

# Threads read requests themselves. By default a thread that reads for all of
# them does, and at SIGTERM Puma closes the connections that it still waits for:
# a reload under heavy load loses a few requests.
queue_requests false
