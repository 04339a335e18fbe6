// SPDX-License-Identifier: MIT OR Apache-2.0
export const dynamic = 'force-dynamic';

export default function Page() {
  return <p>rendered by {String(process.pid)}</p>;
}
