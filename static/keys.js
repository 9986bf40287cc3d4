// Keyboard shortcuts: "/" goes to the search box, "g" and a letter to a page. Off while something is being typed, and
// off altogether where the profile says so (WCAG 2.1.4).
(() => {
  "use strict";
  const pages = { o: "/", s: "/spend", b: "/budgets", c: "/calls" };
  let leading = 0;
  document.addEventListener("keydown", (event) => {
    if (document.documentElement.dataset.keys === "off" || event.defaultPrevented) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at instanceof HTMLElement && (at.isContentEditable || /^(input|select|textarea)$/i.test(at.tagName))) return;
    if (event.key === "/") {
      const box = document.getElementById("jump");
      if (box) { event.preventDefault(); box.focus(); box.select(); }
    } else if (event.key === "g") {
      leading = event.timeStamp;
    } else if (leading && event.timeStamp - leading < 1500) {
      leading = 0;
      const link = pages[event.key] && document.querySelector(`nav a[href="${pages[event.key]}"]`);
      if (link) { event.preventDefault(); link.click(); }
    }
  });
})();
