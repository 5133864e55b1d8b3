// Tabs as the ARIA practices describe them: one stop for Tab, arrow keys within, the panel follows the focus.

export function createTabs(list, onShow) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const usable = () => all.filter((tab) => !tab.hidden);

  function show(chosen) {
    for (const tab of all) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
    }
    onShow(chosen.getAttribute("aria-controls"));
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) show(tab);
  });
  list.addEventListener("keydown", (event) => {
    const tabs = usable();
    const at = tabs.indexOf(event.target);
    const forward = document.documentElement.dir === "rtl" ? -1 : 1;
    const to = {
      ArrowRight: (at + forward + tabs.length) % tabs.length, ArrowLeft: (at - forward + tabs.length) % tabs.length,
      Home: 0, End: tabs.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    show(tabs[to]);
    tabs[to].focus();
  });
  return { showFirst: () => show(all[0]) };
}
