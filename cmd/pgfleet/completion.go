package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// completeFlags lets the shell complete what stands in fleet.toml. Nobody is
// dialled, and mistakes in the file only mean that less is offered.
func (a *app) completeFlags(root *cobra.Command) {
	complete := func(flag string, f cobra.CompletionFunc) {
		if err := root.RegisterFlagCompletionFunc(flag, f); err != nil {
			panic(err) // the flag's name is misspelt above
		}
	}
	complete("limit", a.completeSelector)
	complete("tags", a.completeTags)
	complete("fleet", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"toml"}, cobra.ShellCompDirectiveFilterFileExt
	})
	for _, flag := range []string{"forks", "connect-timeout"} {
		complete(flag, cobra.NoFileCompletions)
	}
}

// selectable returns the names that a selector may hold.
func selectable(fleet *inventory.Fleet) []string {
	var names []string
	for _, h := range fleet.Hosts {
		names = append(names, h.Name)
	}
	for _, g := range fleet.Groups {
		names = append(names, g.Name+"\tgroup")
	}
	seen := map[string]bool{}
	for _, in := range fleet.Instances() {
		if r := in.Replication; r != "" && !seen[r] {
			seen[r] = true
			names = append(names, r+"\treplication cluster")
		}
		if len(in.Host.Instances) > 1 {
			names = append(names, string(in.ID()))
		}
	}
	return names
}

func (a *app) known() *inventory.Fleet {
	fleet, _ := inventory.Load(a.fleet, inventory.Options{Kinds: tasks.Kinds()})
	if fleet == nil {
		return &inventory.Fleet{}
	}
	return fleet
}

// completeSelector completes the last name of a selector.
func (a *app) completeSelector(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexAny(typed, ",:!")+1]
	var list []string
	for _, name := range append(selectable(a.known()), "role=primary", "role=standby") {
		list = append(list, before+name)
	}
	return matching(list, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeTags completes the last tag of a list.
func (a *app) completeTags(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var list []string
	for _, tag := range tagsOf(a.known()) {
		list = append(list, before+tag)
	}
	return matching(list, typed), cobra.ShellCompDirectiveNoFileComp
}

// completeNames completes arguments that are names.
func (a *app) completeNames(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	return matching(selectable(a.known()), typed), cobra.ShellCompDirectiveNoFileComp
}

func matching(list []string, typed string) []string {
	var found []string
	for _, s := range list {
		if strings.HasPrefix(s, typed) {
			found = append(found, s)
		}
	}
	return found
}
