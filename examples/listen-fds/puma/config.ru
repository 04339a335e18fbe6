# SPDX-License-Identifier: MIT OR Apache-2.0
require 'json'

run lambda { |_env|
  body = JSON.generate(
    pid: Process.pid,
    slot: ENV['APP_CLUSTER_SLOT'],
    generation: ENV['APP_CLUSTER_GENERATION']
  )
  [200, { 'content-type' => 'application/json' }, [body]]
}
