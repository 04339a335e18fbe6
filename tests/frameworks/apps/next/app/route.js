// SPDX-License-Identifier: MIT OR Apache-2.0
export const dynamic = 'force-dynamic';

export function GET() {
  return Response.json({ pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION });
}
