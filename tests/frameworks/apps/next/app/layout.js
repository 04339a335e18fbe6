// SPDX-License-Identifier: MIT OR Apache-2.0
export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
